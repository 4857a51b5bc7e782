// A browser's connection to Channelstream's API, which high-templar speaks: opened by the page's application, kept alive,
// opened anew when it is lost. It knows nothing of chat.
//
//   const client = new Channelstream("demo", { joined, frame, state });
//   client.connect({ username: "ann", colour: "teal" }, ["lobby"]);

const HEARTBEAT_MS = 10_000;    // a connection of which nothing is heard for 15 s expires
const SILENCE_MS = 20_000;      // the server says something every 5 s
const OPENING_MS = 5_000;
const POLL_MS = 30_000;         // a poll is answered within some 5 s
const POLL_AGAIN_MS = 4_000;    // a poll repeated before the connection expires loses nothing
const FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 30_000;

/** The application has refused a call, for a reason that can be shown. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export class Channelstream {
  usesLongPolling = false;
  channels = new Set();   // those the user wants to be in
  #application; #on;
  #who = null;            // what the application is told when it is to connect
  #life = null;           // aborted when nothing more is to be tried
  #listening = null;      // aborted when the present connection is not wanted any more
  #id = null; #server = null;
  #wait = FIRST_WAIT_MS;
  #wake = () => {};
  #calls = 0; #held = [];

  /**
   * `application` is the path of the application's calls. `joined(channels, channelsInfo)` tells what is in channels that
   * one is in from now on, `frame(frame)` what happens then, and `state(name, detail)` how the connection is:
   * "connecting", "connected" (by what), "waiting" (so many seconds), "refused" (why), "off".
   */
  constructor(application, on) {
    this.#application = application;
    this.#on = on;
  }

  /** Connects, and stays so until `disconnect`. `who` goes to the application with each connection. */
  connect(who, channels = this.channels) {
    this.#who = who;
    this.channels = new Set(channels);
    this.#wait = FIRST_WAIT_MS;
    this.#start();
  }

  /** Tells the application something else from the next connection on. */
  update(who) {
    this.#who = { ...this.#who, ...who };
  }

  /** Opens a connection, and only then drops the one there is: to the others the user stays. */
  reconnect() {
    if (this.#life && !this.#life.signal.aborted) this.#start();
  }

  /** Does not wait any longer for the next attempt. */
  retry() {
    this.#wake();
  }

  /** Safe when the page goes away: the browser sends the beacon all the same. */
  disconnect() {
    this.#life?.abort();
    this.#listening?.abort();
    this.#drop(this.#server, this.#id);
    this.#id = null;
    this.#on.state("off");
  }

  async subscribe(channel) {
    this.channels.add(channel);
    try {
      await this.#subscribe([channel]);
    } catch (error) {
      if (error instanceof Refused && error.status < 500 && error.status !== 410) this.channels.delete(channel);
      throw error;
    }
  }

  async unsubscribe(channel) {
    this.channels.delete(channel);
    if (this.#id) await this.call("POST", "unsubscribe", { channels: [channel] });
  }

  /** A call to the application, in the name of this connection. */
  async call(method, path, body) {
    const id = this.#id;
    const response = await fetch(`${this.#application}/${path}`, {
      method,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ conn_id: id, ...body }),
    });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    if (response.status === 410 && id && id === this.#id) {
      this.#drop(this.#server, id);
      this.#id = null;
      this.reconnect();
    }
    throw new Refused(response.status, answer.error ?? `the application answered with ${response.status}`);
  }

  #start() {
    this.#life?.abort();
    this.#life = new AbortController();
    this.#stayConnected(this.#life.signal);
  }

  async #stayConnected(signal) {
    while (!signal.aborted) {
      this.#on.state("connecting");
      try {
        await this.#connectOnce(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && error.status < 500) {
          this.disconnect();
          this.#on.state("refused", error.message);
          return;
        }
      }
      if (signal.aborted) return;
      const wait = this.#wait * (0.5 + Math.random()); // not everybody at the same moment
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
      this.#on.state("waiting", Math.ceil(wait / 1000));
      await this.#sleep(wait, signal);
    }
  }

  // Ends when the connection is lost.
  async #connectOnce(signal) {
    const answer = await this.call("POST", "connect", { ...this.#who, channels: [...this.channels] });
    if (signal.aborted) return this.#drop(answer.server, answer.conn_id);
    this.#listening?.abort();
    this.#drop(this.#server, this.#id);
    this.#listening = new AbortController();
    this.#server = answer.server;
    this.#id = answer.conn_id;
    this.#held = [];
    this.#on.joined(answer.channels, answer.channels_info);
    this.#catchUp(answer.channels);
    const wanted = this.#listening.signal;
    if (!this.usesLongPolling && await this.#listenBySocket(wanted)) return;
    if (!wanted.aborted) await this.#listenByPolling(wanted);
  }

  // What the user has joined and left since the application was asked.
  #catchUp(channels) {
    const missing = [...this.channels].filter((channel) => !channels.includes(channel));
    const left = channels.filter((channel) => !this.channels.has(channel));
    if (missing.length) this.#subscribe(missing).catch(() => {});
    if (left.length) this.call("POST", "unsubscribe", { channels: left }).catch(() => {});
  }

  // Frames are held back until the answer has come: they are about what happened after it.
  async #subscribe(channels) {
    if (!this.#id) return;
    this.#calls++;
    try {
      const answer = await this.call("POST", "subscribe", { channels });
      this.#on.joined(channels, answer.channels_info);
    } finally {
      if (--this.#calls === 0) this.#held.splice(0).forEach(this.#on.frame);
    }
  }

  // An empty array is a heartbeat.
  #take(frames) {
    this.#wait = FIRST_WAIT_MS;
    if (this.#calls) this.#held.push(...frames);
    else frames.forEach(this.#on.frame);
  }

  // Whether it came to a WebSocket at all; when it did, answers only once that has gone.
  #listenBySocket(signal) {
    return new Promise((resolve) => {
      let socket, heard = Date.now(), opened = false;
      try {
        socket = new WebSocket(`${this.#server.replace(/^http/, "ws")}/ws?conn_id=${this.#id}`);
      } catch {
        return resolve(false);
      }
      const end = () => {
        clearTimeout(opening);
        clearInterval(heartbeats);
        signal.removeEventListener("abort", end);
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
        resolve(opened);
      };
      const opening = setTimeout(() => { if (!opened) end(); }, OPENING_MS);
      const heartbeats = setInterval(() => {
        if (!opened) return;
        if (Date.now() - heard > SILENCE_MS) end();
        else socket.send('{"type":"heartbeat"}');
      }, HEARTBEAT_MS);
      signal.addEventListener("abort", end);
      socket.onopen = () => {
        opened = true;
        this.#on.state("connected", "WebSocket");
      };
      socket.onmessage = (event) => {
        heard = Date.now();
        this.#take(JSON.parse(event.data));
      };
      socket.onclose = end;
    });
  }

  // Ends when the connection is not known any more.
  async #listenByPolling(signal) {
    let failures = 0, failing;
    this.#on.state("connected", "long polling");
    while (!signal.aborted) {
      try {
        const either = AbortSignal.any([signal, AbortSignal.timeout(POLL_MS)]);
        const response = await fetch(`${this.#server}/listen?conn_id=${this.#id}`, { signal: either, cache: "no-store" });
        if (response.status >= 400 && response.status < 500) return;
        if (!response.ok) throw new Error(response.statusText);
        const frames = await response.json();
        if (signal.aborted) return;
        if (failures) this.#on.state("connected", "long polling");
        failures = 0;
        this.#take(frames);
      } catch {
        // A page is not shown the 401 of an unknown connection if it comes without CORS headers.
        if (failures === 0) failing = Date.now();
        if (signal.aborted || Date.now() - failing > POLL_AGAIN_MS) return;
        const wait = FIRST_WAIT_MS * 2 ** Math.min(failures++, 2) * (0.5 + Math.random());
        this.#on.state("waiting", Math.ceil(wait / 1000));
        await this.#sleep(wait, signal);
      }
    }
  }

  #drop(server, id) {
    if (id) navigator.sendBeacon(`${server}/disconnect?conn_id=${id}`, JSON.stringify({ conn_id: id }));
  }

  #sleep(ms, signal) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => { clearTimeout(timer); resolve(); };
      signal.addEventListener("abort", this.#wake, { once: true });
    });
  }
}
