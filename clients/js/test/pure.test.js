// What needs neither server nor clock.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { generateUrl, socketUrl, streamAddress, streamUrl } from "../src/addresses.js";
import { reconnectDelay } from "../src/backoff.js";
import { comesBack, hint, isServersWord } from "../src/endings.js";
import { EventStreamParser } from "../src/event-stream-parser.js";
import { subscribeMessages, utf8Length } from "../src/requests.js";
import { Route } from "../src/route.js";

describe("the wait before coming back", () => {
  const settings = { reconnectInterval: 1000, maxReconnectInterval: 30_000 };
  const delays = (failures, hint) => [0, 0.5, 0.999].map((number) => reconnectDelay(failures, hint, settings, () => number));

  it("is any part of a time that grows to a limit", () => {
    assert.deepEqual([1, 2, 3, 5, 6, 60, 5000].map((failures) => delays(failures, null)[1]),
      [500, 1000, 2000, 8000, 15_000, 15_000, 15_000]);
    assert.deepEqual(delays(1, null), [0, 500, 999]);
  });

  it("is any part of the hint of a server that goes away", () => {
    assert.deepEqual(delays(1, { kind: "within", seconds: 10 }), [0, 5000, 9990]);
    assert.deepEqual(delays(6, { kind: "within", seconds: 10 }), [0, 15_000, 29_970]);
  });

  it("is never shorter than what the server asks for, and no longer than a timer", () => {
    assert.deepEqual(delays(1, { kind: "not-before", seconds: 10 }), [10_000, 10_500, 10_999]);
    assert.equal(delays(1, { kind: "not-before", seconds: 1e9 })[0], 2 ** 31 - 1);
  });

  it("is never asked of a clock by random numbers of its own that are out of range", () => {
    for (let i = 0; i < 1000; i += 1) {
      const delay = reconnectDelay(2, null, settings);
      assert.ok(delay >= 0 && delay < 2000);
    }
  });
});

describe("an ending", () => {
  it("tells by its code whether to come back", () => {
    const final = [1008, 1009, 3500, 3501];
    for (const code of [1000, 1001, 1002, 1005, 1006, 1007, 1011, 1012, 1013, 3008, 3502, 3503, 4000, ...final]) {
      assert.equal(comesBack({ code, reason: "" }), !final.includes(code), code);
    }
  });

  it("tells by its reason when", () => {
    const of = (code, reason, retryAfter) => hint({ code, reason, retryAfter });
    assert.deepEqual(of(1001, "retry_after=1.5"), { kind: "within", seconds: 1.5 });
    assert.deepEqual(of(1013, "retry_after=12"), { kind: "not-before", seconds: 12 });
    assert.deepEqual(of(1013, "try-later", 3), { kind: "not-before", seconds: 3 });
    assert.deepEqual(of(1006, "status 502", 7), { kind: "not-before", seconds: 7 });
    for (const reason of ["", "retry_after=", "retry_after=-1", "retry_after=1e9x", "soon"]) assert.equal(of(1001, reason), null);
  });

  it("is the server's word or not", () => {
    for (const code of [1001, 1012, 1013, 3008, 3500]) assert.ok(isServersWord({ code, reason: "" }), code);
    for (const code of [1000, 1002, 1005, 1006]) assert.ok(!isServersWord({ code, reason: "" }), code);
  });
});

describe("an event stream", () => {
  const parse = (...pieces) => {
    const parser = new EventStreamParser();
    return pieces.flatMap((piece) => parser.push(piece));
  };
  const stream = '\uFEFF: hello\ndata: {"a":\ndata:  1}\nid: 3f:1\n\nretry: 5\nevent: close\r\ndata:x\r\rdata\n\n: ping\r\n\r\nevent: none\n\n'
    + "nonsense\ndata: \uFEFFé\u{1F600}\n\ndata: never ended";
  const events = [
    { type: "message", data: '{"a":\n 1}' }, { type: "close", data: "x" }, { type: "message", data: "" },
    { type: "message", data: "\uFEFFé\u{1F600}" },
  ];

  it("is read whatever ends its lines", () => {
    assert.deepEqual(parse(stream), events);
    for (const end of ["\n", "\r", "\r\n"]) {
      assert.deepEqual(parse(stream.replace(/\r\n|\r|\n/g, end)), events);
    }
  });

  it("is read wherever it is cut", () => {
    for (let i = 0; i <= stream.length; i += 1) {
      assert.deepEqual(parse(stream.slice(0, i), stream.slice(i)), events);
      assert.deepEqual(parse(stream.slice(0, i), "", stream.slice(i, i + 1), stream.slice(i + 1)), events);
    }
    assert.deepEqual(parse(...stream), events);
  });
});

describe("requests", () => {
  const subscriptions = (count, room = (i) => ({ target: i })) =>
    Array.from({ length: count }, (_, i) => ({ requestId: `s${i}`, room: room(i), position: i % 2 ? `e:${i}` : undefined }));
  const read = (messages) => messages.flatMap((text) => {
    const { type, subscriptions: list } = JSON.parse(text);
    assert.equal(type, "subscribe");
    return list;
  });

  it("hold a thousand subscriptions at most, in their order", () => {
    const { messages, tooLarge } = subscribeMessages(subscriptions(2500), Infinity);
    assert.deepEqual(messages.map((text) => JSON.parse(text).subscriptions.length), [1000, 1000, 500]);
    const all = read(messages);
    assert.deepEqual(all[0], { requestId: "s0", room: { target: 0 } });
    assert.deepEqual(all[2499], { requestId: "s2499", room: { target: 2499 }, since: "e:2499" });
    assert.deepEqual([all.length, tooLarge], [2500, []]);
    assert.deepEqual(subscribeMessages([], 100), { messages: [], tooLarge: [] });
  });

  it("are not larger than allowed, in bytes", () => {
    const wanted = subscriptions(200, (i) => ({ target: "é".repeat(i) }));
    for (const limit of [120, 121, 122, 300, 1000]) {
      const { messages, tooLarge } = subscribeMessages(wanted, limit);
      assert.ok(messages.every((text) => Buffer.byteLength(text) <= limit));
      assert.deepEqual(read(messages).map(({ requestId }) => requestId),
        wanted.filter((each) => !tooLarge.includes(each)).map(({ requestId }) => requestId));
      for (const { requestId, room, position: since } of tooLarge) {
        const alone = JSON.stringify({ type: "subscribe", subscriptions: [{ requestId, room, since }] });
        assert.ok(Buffer.byteLength(alone) >= limit, alone);
      }
    }
  });
});

describe("the length of a text", () => {
  it("is that of its UTF-8", () => {
    for (const text of ["", "abc", "é", "\u07ff\u0800\uffff", "\u{10000}a\u{1f600}", "\ud7ff\ue000"]) {
      assert.equal(utf8Length(text), Buffer.byteLength(text), text);
    }
  });
});

describe("addresses", () => {
  it("of sockets carry the parameters that have a value", () => {
    assert.equal(socketUrl("wss://x/ws/", {}, false), "wss://x/ws/");
    assert.equal(socketUrl("wss://x/ws/?a=b", { token: "é", tenant: "7", empty: "" }, true),
      "wss://x/ws/?a=b&token=%C3%A9&tenant=7&resume");
  });

  it("of the page's own host are made of its location", (t) => {
    t.after(() => { delete globalThis.location; });
    assert.throws(() => generateUrl("/ws/"), /no page/);
    for (const [href, url] of [["https://app.test:8443/a", "wss://app.test:8443/ws/"], ["http://app.test/", "ws://app.test/ws/"]]) {
      globalThis.location = new URL(href);
      assert.equal(generateUrl("/ws/"), url);
    }
    globalThis.location = new URL("about:blank");
    assert.throws(() => generateUrl("/ws/"), /about:/);
  });

  it("of event streams stand beside those of sockets", () => {
    for (const [socket, stream] of [
      ["wss://app.example.org/ws/", "https://app.example.org/sse/"],
      ["ws://localhost:8000/ws", "http://localhost:8000/sse"],
      ["wss://x/ws/api/ws/?a=ws/", "https://x/ws/api/sse/?a=ws/"],
      ["wss://x/socket/", null],
      ["wss://x/news/", null],
    ]) {
      assert.equal(streamAddress(socket), stream);
    }
  });

  it("of event streams name rooms, positions and token", () => {
    const a = { room: { x: "é&" } }, b = { room: { y: 1 }, position: "3f:1" };
    const query = (...subscriptions) => decodeURIComponent(streamUrl("https://x/sse/", subscriptions, {}, true).split("?")[1] ?? "");
    assert.equal(query(a), 'room={"x":"é&"}');
    assert.equal(query(a, b), 'room={"x":"é&"}&room={"y":1}&since=;1=3f:1');
    assert.equal(query(), "");
    assert.equal(streamUrl("https://x/sse/?k=v", [b], { token: "t&" }, true), "https://x/sse/?k=v&room=%7B%22y%22%3A1%7D&since=3f%3A1&token=t%26");
    assert.equal(streamUrl("https://x/sse/", [b], { token: "t" }, false), "https://x/sse/?room=%7B%22y%22%3A1%7D&token=t");
  });

  it("of event streams name the position of most rooms once", () => {
    const since = (...positions) =>
      new URL(streamUrl("https://x/sse/", positions.map((position) => ({ room: {}, position })), {}, true)).searchParams.get("since");
    assert.equal(since(...Array(100).fill("3f:1")), "3f:1");
    assert.equal(since("3f:2", "3f:1", undefined, "3f:1"), "3f:1;0=3f:2;2=");
    assert.equal(since(undefined, undefined, "3f:1"), ";2=3f:1");
    assert.equal(since(undefined, undefined), null);
  });
});

describe("the route", () => {
  const both = { hasSocket: true, hasStream: true };
  const failed = { code: 1006, reason: "" };
  const stream = (why) => ({ ...failed, stream: why });

  const silent = { ...failed, isSilent: true };
  const reached = { ...failed, wasReached: true };
  /** The ways of one round in which each fails as told. */
  const round = (route, endings, now = 0) => {
    const ways = [route.first(now, true)];
    for (const ending of endings) ways.push(route.next(ways.at(-1), ending, now));
    return ways;
  };

  it("goes from version 4 to plain sockets, and to event streams", () => {
    for (const why of ["away", "absent", "unreadable"]) {
      assert.deepEqual(round(new Route(both), [failed, failed, stream(why)]), ["v4", "3.1", "sse", null]);
    }
    assert.deepEqual(round(new Route({ hasSocket: true, hasStream: false }), [failed, failed]), ["v4", "3.1", null]);
  });

  it("asks for an event stream first where sockets hang or break, and a plain one only where there is none", () => {
    for (const first of [silent, reached]) {
      assert.deepEqual(round(new Route(both), [first, stream("away")]), ["v4", "sse", null]);
      assert.deepEqual(round(new Route(both), [first, stream("absent"), failed]), ["v4", "sse", "3.1", null]);
    }
    assert.deepEqual(round(new Route({ hasSocket: true, hasStream: false }), [silent, failed]), ["v4", "3.1", null]);
    assert.deepEqual(round(new Route({ hasSocket: true, hasStream: false }), [reached]), ["v4", null]);
  });

  it("tries version 4 once more where a plain socket reaches a server that speaks it", () => {
    const route = new Route(both);
    assert.ok(!route.isInDoubt);
    round(route, [failed]);
    assert.ok(route.isInDoubt);
    assert.equal(route.repeat(), "v4");
    assert.equal(route.next("v4", failed, 0), "3.1");
    assert.ok(!route.isInDoubt);
  });

  it("takes a server for one of 3.1 when version 4 has failed twice, and not for ever", () => {
    const route = new Route(both);
    for (const now of [0, 1000]) {
      round(route, [failed], now);
      route.works("3.1");
    }
    assert.deepEqual(round(route, [failed], 2000), ["3.1", null]);
    assert.deepEqual(round(route, [], 601_000), ["v4"]);
    route.works("v4");
    assert.deepEqual(round(route, [failed], 602_000), ["v4", "3.1"]);
    route.works("3.1");
    assert.deepEqual(round(route, [], 603_000), ["v4"]);
  });

  it("tries no event streams until what has worked has failed three times", () => {
    const route = new Route(both);
    round(route, []);
    route.works("v4");
    for (let i = 0; i < 3; i += 1) assert.deepEqual(round(route, [failed, failed]), ["v4", "3.1", null]);
    assert.deepEqual(round(route, [failed, failed]), ["v4", "3.1", "sse"]);
  });

  it("comes back to sockets from event streams, but not all the time", () => {
    const route = new Route(both);
    route.first(0, true);
    route.next("v4", silent, 1000);
    route.works("sse");
    assert.equal(route.first(60_999, true), "sse");
    assert.equal(route.first(60_999, false), "v4");
    assert.equal(route.first(61_000, true), "v4");
    assert.equal(route.next("v4", silent, 61_000), "sse");
    assert.equal(route.next("sse", stream("absent"), 61_000), null);
    assert.equal(route.first(62_000, true), "sse");
  });

  it("has no sockets where there are none", () => {
    const route = new Route({ hasSocket: false, hasStream: true });
    assert.equal(route.first(0, false), "sse");
    assert.equal(route.next("sse", stream("absent"), 0), null);
  });
});
