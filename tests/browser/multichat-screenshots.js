// Makes the pictures of examples/multichat for the documentation:
//
//   PYTHON=…/venv/bin/python node multichat-screenshots.js BINARY FOLDER

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { Person, World } from "./multichat-world.js";
import { stopAll } from "./processes.js";

const [BINARY, FOLDER] = process.argv.slice(2);

// Where it is two in the afternoon.
const hours = 14 - new Date().getUTCHours();
const AFTERNOON = `Etc/GMT${hours > 0 ? "-" : "+"}${Math.abs(hours)}`;

// Two users and three rooms of the demo, and a conversation of two days.
const POPULATE = `
import json
from datetime import timedelta
from django.contrib.auth import get_user_model
from django.utils import timezone
from chat.models import Message, Room

users = {user.username: user for user in get_user_model().objects.all()}
users["carol"] = get_user_model().objects.create_user("carol", password="carol")
rooms = {room.slug: room for room in Room.objects.all()}

def write(slug, *rows):
    for minutes, author, text, *kind in rows:
        message = Message.objects.create(room=rooms[slug], author=users[author], text=text, kind=kind[0] if kind else "normal")
        Message.objects.filter(pk=message.pk).update(written=timezone.now() - timedelta(minutes=minutes))

write("lobby",
    (1900, "bob", "The new projector has arrived. It is in the meeting room."),
    (1893, "alice", "Very good, thank you!"),
    (1702, "carol", "Does anybody have the right cable? The one on the table does not fit."),
    (1695, "bob", "Top drawer, on the left."),
    (292, "bob", "Good morning. Who is here today?"),
    (290, "carol", "I am, until four."),
    (287, "alice", "Me, too. Could somebody sign for the delivery at noon? It is two boxes, and they need a signature."),
    (286, "carol", "I will be at the desk anyway."),
    (61, "alice", "The lift is out of order until tomorrow. Please take the stairs at the back.", "warning"),
    (34, "carol", "The boxes are here. They are heavy!"),
    (12, "bob", "Coming, I will take one."),
    (4, "alice", "The backup of last night is complete.", "muted"))
write("kitchen",
    (58, "carol", "We are out of coffee."),
    (41, "bob", "There is some in the cupboard on the left, behind the tea."),
    (39, "carol", "You have saved the day."))
write("staff-room", (95, "alice", "The agenda for Thursday is on the wall. Please add to it what you need to talk about."))
print(json.dumps({"rooms": [{"slug": room.slug, "name": room.name} for room in rooms.values()]}))
`;

const world = await World.start(BINARY, { populate: POPULATE });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });

async function enters(name, rooms, options) {
  const person = await Person.enters({ after() {} }, browser, world, { name }, [], { locale: "en-GB", timezoneId: AFTERNOON, ...options });
  await person.page.getByLabel("Username").fill(name);
  await person.page.getByLabel("Password").fill(name);
  await person.page.keyboard.press("Enter");
  await person.page.locator("#state.good").waitFor();
  for (const slug of rooms) await person.joins(world.rooms.find((room) => room.slug === slug));
  return person;
}

async function picture(person, name) {
  await person.page.evaluate(() => document.activeElement.blur());
  await person.page.screenshot({ path: join(FOLDER, `${name}.png`) });
}

try {
  mkdirSync(FOLDER, { recursive: true });
  const [lobby, kitchen] = ["lobby", "kitchen"].map((slug) => world.rooms.find((room) => room.slug === slug));
  // Whoever is there already is in the room without a notice.
  const bob = await enters("bob", ["lobby", "kitchen"]), carol = await enters("carol", ["lobby", "kitchen"]);

  const alice = await enters("alice", ["lobby", "kitchen"], { viewport: { width: 1240, height: 640 } });
  await picture(alice, "multichat");

  const onPhone = await enters("alice", ["kitchen", "lobby"], { viewport: { width: 390, height: 720 }, isMobile: true, hasTouch: true });
  await carol.writes(kitchen, ["Cake at three!", "For everybody."]);
  await onPhone.hasUnread(kitchen, "2");
  await picture(onPhone, "multichat-phone");
  await onPhone.context.close();

  const inTheDark = await enters("alice", ["lobby"], { viewport: { width: 820, height: 560 }, colorScheme: "dark" });
  await inTheDark.scrolls(lobby, -150);
  await bob.writes(lobby, ["Has anybody seen my keys?", "Found them."]);
  await inTheDark.newMessages(lobby).getByText("2 new messages").waitFor();
  world.balancer.cut();
  await inTheDark.isReconnecting();
  await inTheDark.page.getByRole("alert").waitFor();
  await picture(inTheDark, "multichat-reconnecting");
} finally {
  await browser.close();
  await world.end();
  await stopAll();
}
process.exit(0);
