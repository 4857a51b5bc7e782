export { Socket } from "./socket.js";
export { Subscription } from "./subscription.js";
