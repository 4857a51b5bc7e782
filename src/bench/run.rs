//! The phases of a run: connect, sit, warm up, measure, wait for the rest.

use std::time::{Duration, Instant};

use super::{
    Error,
    books::Books,
    client::Common,
    crowd::Crowd,
    moment::Moment,
    options::{Header, Pace, Plan, Poll, Route},
    process::{Process, Usage},
    progress::Progress,
    publish,
    report::{Closings, Connect, Idle, Report, ms, round},
    side::Side,
    target::Target,
};

/// The load before the time that is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long clients may take to become ready while none does.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait for a delivery while none comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for the last ones in all.
const DRAIN: Duration = Duration::from_secs(60);
/// How long the server may take to answer the clients' goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often to look at anything but the clients.
const LOOK: Duration = Duration::from_millis(10);

/// Measures the server at `target`; the clients say `headers`, triggers go by `route`.
pub(super) fn run(
    side: &Side,
    plan: &Plan,
    target: &Target,
    headers: &[Header],
    route: Option<&Route>,
    process: Option<Process>,
) -> Result<Report, Error> {
    let run: u32 = rand::random();
    let epoch = Instant::now();
    let common = Common {
        request: request(target, headers),
        room: plan.room.clone(),
        rooms: plan.rooms,
        subscriptions: plan.subscriptions,
    };
    let books = Books::new(run, epoch, plan.connections, plan.subscriptions, plan.rooms);
    let crowd = Crowd::new(target.clone(), common, books)?;
    let broker = plan.broker_pid.map(Process);
    let mut run = Run { side, plan, crowd, process, broker, progress: Progress::new(), run, epoch, last_look: epoch };
    let before = run.usage(process)?;
    let connect = run.connect()?;
    let idle = run.idle(before)?;
    let mut report = run.report(target, connect, idle);
    if let (Some(duration), Some(route)) = (plan.load, route) {
        run.load(duration, route, &mut report)?;
    } else {
        run.enter_closings(&mut report);
    }
    if !matches!(plan.subject, super::Subject::Own { .. }) {
        run.say_goodbye();
    }
    Ok(report)
}

/// A run under way.
struct Run<'a> {
    side: &'a Side,
    plan: &'a Plan,
    crowd: Crowd,
    process: Option<Process>,
    broker: Option<Process>,
    progress: Progress,
    run: u32,
    epoch: Instant,
    last_look: Instant,
}

impl Run<'_> {
    fn connect(&mut self) -> Result<Connect, Error> {
        let start = Instant::now();
        let before = self.usage(self.process)?;
        let all = self.plan.connections;
        let with_probe = all as usize + usize::from(self.plan.probe.is_some());
        let (mut begun, mut last_ready, mut since) = (0, 0, Instant::now());
        while self.crowd.ready() < with_probe {
            while begun < with_probe && self.crowd.opening() < self.plan.concurrency {
                self.crowd.connect((begun == all as usize).then_some(self.plan.rooms))?;
                begun += 1;
            }
            self.crowd.turn(Poll::Block)?;
            let ready = self.crowd.ready();
            if let Some((closing, connections)) = self.crowd.closings().first_key_value() {
                return Err(Error::ClosedEarly { connections: *connections, closing: closing.clone() });
            }
            if ready != last_ready {
                (last_ready, since) = (ready, Instant::now());
            } else if since.elapsed() > CONNECT_PATIENCE {
                return Err(Error::TooSlow(CONNECT_PATIENCE, ready, all));
            }
            self.look(|_| format!("connecting: {ready} of {all}"))?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let used = self.used(self.process, before)?;
        self.crowd.start_pinging();
        Ok(Connect {
            seconds: round(seconds),
            per_second: round(f64::from(all) / seconds),
            server_cpu_us_each: used.map(|used| round(used.cpu.as_secs_f64() * 1e6 / f64::from(all))),
        })
    }

    /// Lets the clients sit, if that is asked for; `before` is the server before the first of them.
    fn idle(&mut self, before: Option<Usage>) -> Result<Option<Idle>, Error> {
        let Some(duration) = self.plan.idle else { return Ok(None) };
        let (start, connected) = (Instant::now(), self.usage(self.process)?);
        while start.elapsed() < duration {
            self.crowd.turn(Poll::Block)?;
            self.look(|_| format!("idle: {:.0} of {:.0} s", start.elapsed().as_secs_f64(), duration.as_secs_f64()))?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let (used, all) = (self.used(self.process, connected)?, self.used(self.process, before)?);
        let connections = f64::from(self.plan.connections);
        Ok(Some(Idle {
            seconds: round(seconds),
            server_user_bytes_per_connection: all.map(|all| (all.memory_bytes as f64 / connections).round()),
            server_cpu_percent: used.map(|used| round(used.cpu.as_secs_f64() / seconds * 100.0)),
        }))
    }

    fn load(&mut self, duration: Duration, route: &Route, report: &mut Report) -> Result<(), Error> {
        let load = publish::Load::start(self.side.handle(), self.plan, route, self.run, self.epoch)?;
        let stalled_early = self.keep_up(&load, WARM_UP, "warming up")?;
        self.crowd.books_mut().start_measuring();
        let start = self.moment()?;
        let has_stalled = stalled_early || self.keep_up(&load, duration, "measuring")?;
        let end = self.moment()?;
        let measured = end.measured(&start, self.plan, self.crowd.books());
        report.warnings.extend(end.warnings(&start, self.plan, &measured));
        report.load = Some(measured);
        load.stop();
        if has_stalled {
            report.warnings.push(format!("nothing arrived for {PATIENCE:?}, so the load was ended early"));
        }
        let (published, probes) = self.drain(load)?;
        self.progress.clear();
        let (faults, misdelivered) = self.crowd.books().close(&published, probes);
        report.enter_faults(faults, misdelivered);
        self.enter_closings(report);
        Ok(())
    }

    /// Keeps the load going for so long. Whether it has ended early, since nothing came any more.
    fn keep_up(&mut self, load: &publish::Load, duration: Duration, phase: &str) -> Result<bool, Error> {
        let start = Instant::now();
        let (mut allowed, mut arrived) =
            (self.crowd.books().load.ledger.complete(), self.crowd.books().load.deliveries);
        let mut last = Instant::now();
        // In the open loop there may be long pauses between two triggers.
        let patience = match self.plan.pace {
            Pace::Window(_) => PATIENCE,
            Pace::Rate(rate) => PATIENCE.max(Duration::from_secs_f64(2.0 * f64::from(self.plan.publishers) / rate)),
        };
        while start.elapsed() < duration {
            self.crowd.turn(self.plan.poll)?;
            let account = &self.crowd.books().load;
            load.allow(account.ledger.complete() - allowed);
            allowed = account.ledger.complete();
            // What comes otherwise, such as an answer to a ping or the probe's deliveries, does not keep the load going.
            if account.deliveries != arrived {
                (arrived, last) = (account.deliveries, Instant::now());
            } else if last.elapsed() > patience || self.crowd.ready() == 0 {
                return Ok(true);
            }
            self.look(|crowd| {
                let (account, seconds) = (&crowd.books().load, start.elapsed().as_secs_f64());
                format!(
                    "{phase}: {seconds:.0} of {:.0} s, {:.0} deliveries/s, p99 {:.2} ms",
                    duration.as_secs_f64(),
                    account.deliveries as f64 / seconds,
                    ms(account.latencies.quantile(0.99)),
                )
            })?;
            if load.has_failed() {
                break; // the drain says why
            }
        }
        Ok(false)
    }

    /// Waits for what is under way; how many triggers each room got, and the probe's.
    fn drain(&mut self, load: publish::Load) -> Result<(Vec<u32>, u32), Error> {
        let start = Instant::now();
        while !load.is_finished() {
            self.wait_for_more()?;
        }
        let (published, probes) = load.finish()?;
        let (mut arrived, mut last) = (0, Instant::now());
        while last.elapsed() < PATIENCE && start.elapsed() < DRAIN && self.crowd.ready() > 0 {
            let books = self.crowd.books();
            if books.load.ledger.is_complete(&published) && books.probe.ledger.is_complete(&[probes]) {
                break;
            }
            if books.load.deliveries + books.probe.deliveries != arrived {
                (arrived, last) = (books.load.deliveries + books.probe.deliveries, Instant::now());
            }
            // That costs as much as there are rooms, so it is not asked after each delivery.
            let until = Instant::now() + LOOK;
            while Instant::now() < until {
                self.wait_for_more()?;
            }
        }
        Ok((published, probes))
    }

    fn wait_for_more(&mut self) -> Result<(), Error> {
        self.crowd.turn(Poll::Block)?;
        self.look(|_| "waiting for the last deliveries".to_owned())
    }

    /// Closes all connections as one should; 3.1 would keep them in its books for minutes.
    fn say_goodbye(&mut self) {
        let start = Instant::now();
        // What does not work now does not matter any more.
        let mut goes_on = self.crowd.close().is_ok();
        while goes_on && self.crowd.ready() > 0 && start.elapsed() < GOODBYE {
            goes_on = self.crowd.turn(Poll::Block).is_ok();
        }
    }

    /// Shows how far it is, and ends the run if that is asked for.
    fn look(&mut self, line: impl FnOnce(&Crowd) -> String) -> Result<(), Error> {
        if self.last_look.elapsed() < LOOK {
            return Ok(());
        }
        self.last_look = Instant::now();
        self.progress.show(|| line(&self.crowd));
        if self.side.is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn usage(&self, process: Option<Process>) -> Result<Option<Usage>, Error> {
        process.map(|process| process.usage().ok_or(Error::NoProcess(process.0))).transpose()
    }

    fn used(&self, process: Option<Process>, before: Option<Usage>) -> Result<Option<Usage>, Error> {
        Ok(self.usage(process)?.zip(before).map(|(now, before)| now.since(&before)))
    }

    fn moment(&self) -> Result<Moment, Error> {
        let complete = self.crowd.books().load.ledger.complete();
        Ok(Moment::now(self.usage(self.process)?, self.usage(self.broker)?, complete))
    }

    fn enter_closings(&self, report: &mut Report) {
        report.closed = self.crowd.closed() as u32;
        report.closings = self
            .crowd
            .closings()
            .iter()
            .map(|(closing, connections)| Closings {
                code: closing.code,
                reason: closing.reason.clone(),
                connections: *connections,
            })
            .collect();
    }

    fn report(&self, target: &Target, connect: Connect, idle: Option<Idle>) -> Report {
        let plan = self.plan;
        let (window, rate_per_s) = match plan.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        Report {
            version: env!("CARGO_PKG_VERSION"),
            target: target.url.clone(),
            connections: plan.connections,
            subscriptions: plan.all_subscriptions(),
            rooms: plan.rooms,
            size_bytes: plan.size_bytes,
            publishers: plan.publishers,
            window: window.filter(|_| plan.load.is_some()),
            rate_per_s,
            poll: match plan.poll {
                Poll::Nap => "nap",
                Poll::Block => "block",
            },
            connect,
            idle,
            load: None,
            lost: 0,
            doubled: 0,
            out_of_order: 0,
            misdelivered: 0,
            closed: 0,
            closings: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

fn request(target: &Target, headers: &[Header]) -> String {
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        target.path, target.authority
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    request
}
