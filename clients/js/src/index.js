export { Feed } from "./feed.js";
export { Socket } from "./socket.js";
export { Subscription } from "./subscription.js";
