//! Turns, pauses and times to come back, by a paused clock.

use super::{
    bookings::LONGEST_WAIT,
    breaker::{FAILURES, LONGEST_PAUSE},
    *,
};

fn gate(concurrency: usize, queue: usize) -> Arc<Gate> {
    let vars = [
        ("API_URL", "http://api/".to_owned()),
        ("API_CONCURRENCY", concurrency.to_string()),
        ("API_QUEUE", queue.to_string()),
    ];
    let config = config::from_vars(vars.map(|(name, value)| (name.to_owned(), value)).into_iter()).unwrap();
    Arc::new(Gate::new(&config.backend, Arc::default()))
}

/// A request on an account of its own.
fn request(gate: &Gate, urgency: Urgency, patience: Patience) -> Request {
    let call = gate.number();
    Request { call, caller: Caller::Identity(call), urgency, patience }
}

/// A request of a stranger, whose account is 0 whatever it forwards.
fn stranger(gate: &Gate, patience: Patience) -> Request {
    Request { caller: STRANGER, ..request(gate, Urgency::Client, patience) }
}

const STRANGER: Caller = Caller::Identity(u64::MAX);

async fn client(gate: &Gate) -> Turn<'_> {
    gate.turn(request(gate, Urgency::Client, Patience::Endless)).await.unwrap()
}

async fn short(gate: &Gate) -> Result<Turn<'_>, Busy> {
    gate.turn(request(gate, Urgency::Client, Patience::Short)).await
}

/// Has somebody wait, who then says so; returns when it waits.
async fn wait(
    gate: &Arc<Gate>,
    urgency: Urgency,
    name: &'static str,
    told: &Arc<Mutex<Vec<&'static str>>>,
) -> tokio::task::JoinHandle<()> {
    wait_as(gate, request(gate, urgency, Patience::Endless), name, told).await
}

async fn wait_as(
    gate: &Arc<Gate>,
    request: Request,
    name: &'static str,
    told: &Arc<Mutex<Vec<&'static str>>>,
) -> tokio::task::JoinHandle<()> {
    let (gate, told) = (gate.clone(), told.clone());
    let waiting = tokio::spawn(async move {
        let turn = gate.turn(request).await.unwrap();
        told.lock().push(name);
        tokio::time::sleep(Duration::from_millis(10)).await;
        turn.end(Verdict::Fine);
    });
    tokio::task::yield_now().await;
    waiting
}

/// Probes an API as [`Backend::keep`](super::super::Backend::keep) does; each probe comes to what `verdict` is then. Counts them.
fn keep(gate: &Arc<Gate>, verdict: &Arc<Mutex<Verdict>>) -> (tokio::task::JoinHandle<()>, Arc<AtomicU64>) {
    let (gate, verdict, count) = (gate.clone(), verdict.clone(), Arc::new(AtomicU64::new(0)));
    let counted = count.clone();
    let keeping = tokio::spawn(async move {
        loop {
            let probe = gate.probe().await;
            counted.fetch_add(1, Relaxed);
            probe.end(*verdict.lock());
        }
    });
    (keeping, count)
}

/// Lets the keeper run.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..100 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not happen");
}

const FAILED: Verdict = Verdict::Failed { pause: None };

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_the_limit_run_and_the_urgent_ones_go_first_without_starving_the_others() {
    let gate = gate(1, 1000);
    let told = Arc::default();
    let running = client(&gate).await;
    let mut all = Vec::new();
    for name in ["b1", "b2"] {
        all.push(wait(&gate, Urgency::Background, name, &told).await);
    }
    for name in ["c1", "c2", "c3"] {
        all.push(wait(&gate, Urgency::Client, name, &told).await);
    }
    all.push(wait(&gate, Urgency::Urgent, "u1", &told).await);
    assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (1, 6));
    drop(running);
    for waiting in all {
        waiting.await.unwrap();
    }
    assert_eq!(*told.lock(), ["u1", "c1", "c2", "b1", "c3", "b2"]);
    assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_takes_is_passed_on() {
    let gate = gate(1, 1000);
    let told = Arc::default();
    let running = client(&gate).await;
    let gone = wait(&gate, Urgency::Client, "gone", &told).await;
    let stays = wait(&gate, Urgency::Client, "stays", &told).await;
    drop(running); // the turn has been given to the first one, which has not run since
    gone.abort();
    stays.await.unwrap();
    assert_eq!(*told.lock(), ["stays"]);
    client(&gate).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_patience_is_refused_where_the_line_is_full_and_told_times_that_the_backend_can_follow() {
    let gate = gate(10, 100);
    gate.state.lock().call_seconds = 0.05; // 200 a second
    let _running: Vec<_> = futures::future::join_all((0..10).map(|_| client(&gate))).await;
    let told = Arc::default();
    for _ in 0..100 {
        wait(&gate, Urgency::Client, "", &told).await;
    }
    let mut seconds = Vec::new();
    for _ in 0..10_000 {
        let busy = short(&gate).await.unwrap_err();
        seconds.push(busy.retry_after.as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    assert!(seconds[0] >= 1.0);
    for second in 2..48 {
        let count = seconds.iter().filter(|at| (f64::from(second)..f64::from(second + 1)).contains(*at)).count();
        assert!((150..=250).contains(&count), "{count} come back in second {second}");
    }
    assert!(*seconds.last().unwrap() < 53.0, "{:?}", seconds.last());
}

#[tokio::test(start_paused = true)]
async fn however_many_are_sent_away_nobody_is_told_to_stay_away_for_hours() {
    let gate = gate(1, 1);
    let _running = client(&gate).await;
    let told = Arc::default();
    wait(&gate, Urgency::Client, "", &told).await;
    for _ in 0..100_000 {
        let busy = short(&gate).await.unwrap_err();
        assert!((1.0..=LONGEST_WAIT + 1.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_is_left_alone_and_then_tried_with_a_request_of_our_own() {
    let gate = gate(4, 100);
    let verdict = Arc::new(Mutex::new(FAILED));
    let (keeping, probes) = keep(&gate, &verdict);
    for _ in 0..FAILURES {
        client(&gate).await.end(FAILED);
    }
    until(|| gate.metrics.api_paused.get() == 1).await;
    short(&gate).await.unwrap().end(FAILED);
    assert!(short(&gate).await.is_err());
    // Each pause is longer than the one before, and lets one client's call through.
    let mut last = Duration::ZERO;
    for pause in [1, 2, 4] {
        let start = Instant::now();
        let trial = client(&gate).await; // waits for the next probe
        let waited = start.elapsed();
        assert!((0.5..=1.01).contains(&(waited.as_secs_f64() / f64::from(pause))), "{waited:?} of {pause}");
        assert!(waited > last / 2 && short(&gate).await.is_err(), "one call at a time");
        trial.end(FAILED);
        assert!(short(&gate).await.is_err(), "one call in a pause");
        last = waited;
    }
    assert_eq!((probes.load(Relaxed), gate.metrics.api_pauses.get()), (4, 1));
    *verdict.lock() = Verdict::Fine;
    let start = Instant::now();
    client(&gate).await.end(Verdict::Fine);
    assert!(start.elapsed() <= LONGEST_PAUSE);
    assert_eq!((gate.metrics.api_paused.get(), probes.load(Relaxed)), (0, 5));
    let four = futures::future::join_all((0..4).map(|_| short(&gate))).await;
    assert!(four.iter().all(Result::is_ok));
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_clients_calls_leaves_nothing_alone_that_works_for_a_request_of_our_own() {
    let gate = gate(4, 100);
    let (keeping, probes) = keep(&gate, &Arc::new(Mutex::new(Verdict::Fine)));
    let pause = Some(Duration::from_secs(600));
    for round in 0..100 {
        // Many identities of one stranger, or one: it makes no difference.
        for _ in 0..2 * FAILURES {
            client(&gate).await.end(FAILED);
            gate.turn(stranger(&gate, Patience::Short)).await.unwrap().end(Verdict::Failed { pause });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(gate.metrics.api_paused.get(), 0, "round {round}");
        short(&gate).await.unwrap().end(Verdict::Fine);
    }
    assert_eq!(gate.metrics.api_pauses.get(), 0);
    assert!((5..=11).contains(&probes.load(Relaxed)), "{} probes in ten seconds", probes.load(Relaxed));
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn calls_that_began_before_a_pause_say_nothing_of_what_is_after_it() {
    let gate = gate(4, 100);
    let verdict = Arc::new(Mutex::new(Verdict::Failed { pause: Some(Duration::from_secs(1)) }));
    let (keeping, _) = keep(&gate, &verdict);
    let [given_up, late, fine] = [client(&gate).await, client(&gate).await, client(&gate).await];
    client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(1)) });
    until(|| gate.metrics.api_paused.get() == 1).await;
    drop(given_up);
    late.end(FAILED);
    fine.end(Verdict::Fine);
    assert_eq!(gate.metrics.api_paused.get(), 1);
    assert!(short(&gate).await.is_err());
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stranger_with_slow_calls_and_a_long_line_keeps_nobody_waiting() {
    let gate = gate(8, 100);
    let told = Arc::default();
    // It takes what slots it can get, and fills the line with calls that wait whatever they are told.
    let mut held = Vec::new();
    while let Ok(turn) =
        tokio::time::timeout(Duration::from_millis(1), gate.turn(stranger(&gate, Patience::Endless))).await
    {
        held.push(turn.unwrap());
    }
    assert_eq!(held.len(), 6);
    for _ in 0..1000 {
        wait_as(&gate, stranger(&gate, Patience::Endless), "stranger", &told).await;
    }
    assert!(gate.turn(stranger(&gate, Patience::Short)).await.is_err(), "it has its share of the line");
    // Others have a slot at once.
    for _ in 0..100 {
        let start = Instant::now();
        short(&gate).await.unwrap().end(Verdict::Fine);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
    assert_eq!(told.lock().len(), 0);
    // And where all slots are taken, the next one that is free, whosever it was.
    let _others = [client(&gate).await, client(&gate).await];
    wait(&gate, Urgency::Client, "other", &told).await;
    drop(held.pop());
    until(|| !told.lock().is_empty()).await;
    assert_eq!(*told.lock(), ["other"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_stranger_began_goes_on_the_turn_of_whoever_else_waits_for_it() {
    let gate = gate(1, 100);
    let told = Arc::default();
    let running = client(&gate).await;
    for _ in 0..100 {
        wait_as(&gate, stranger(&gate, Patience::Endless), "stranger", &told).await;
    }
    let shared = stranger(&gate, Patience::Endless);
    wait_as(&gate, shared, "shared", &told).await;
    gate.join(shared.call, Caller::Identity(7), Urgency::Client);
    drop(running);
    until(|| told.lock().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(15)).await;
    assert_eq!(*told.lock(), ["stranger", "shared"]);
}

#[tokio::test(start_paused = true)]
async fn an_account_with_slow_calls_counts_as_one_in_the_mean() {
    let gate = gate(32, 100);
    for _ in 0..10 {
        let slow: Vec<_> =
            futures::future::join_all((0..24).map(|_| gate.turn(stranger(&gate, Patience::Endless)))).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(slow.into_iter().map(|turn| turn.unwrap().end(FAILED)).collect::<Vec<_>>());
        for _ in 0..20 {
            let turn = client(&gate).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            turn.end(Verdict::Fine);
        }
    }
    let seconds = gate.state.lock().call_seconds;
    assert!(seconds < 2.0, "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn hooks_in_line_are_nothing_that_a_client_has_to_wait_for() {
    let gate = gate(1, 10);
    let running = client(&gate).await;
    let told = Arc::default();
    for _ in 0..1000 {
        wait(&gate, Urgency::Background, "", &told).await;
    }
    let gone = tokio::time::timeout(Duration::from_secs(1), short(&gate)).await;
    assert!(gone.is_err(), "it was sent away");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_backend_asks_for_is_kept_to() {
    let gate = gate(4, 100);
    let verdict = Arc::new(Mutex::new(Verdict::Failed { pause: Some(Duration::from_secs(7)) }));
    let (keeping, _) = keep(&gate, &verdict);
    let start = Instant::now();
    client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(500)) });
    until(|| gate.metrics.api_paused.get() == 1).await;
    *verdict.lock() = Verdict::Fine;
    let busy = short(&gate).await.unwrap_err();
    assert!((7.0..9.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
    client(&gate).await.end(Verdict::Fine);
    assert_eq!(start.elapsed().as_secs(), 7);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_want_to_wait_for_the_end_of_a_pause_is_told_when_it_begins() {
    let gate = gate(1, 1000);
    let verdict = Arc::new(Mutex::new(Verdict::Failed { pause: Some(Duration::from_secs(5)) }));
    let check = || gate.turn(request(&gate, Urgency::Urgent, Patience::UnlessPaused));
    let turn = client(&gate).await;
    let (mut waiting, mut patient) = (Box::pin(check()), Box::pin(client(&gate)));
    assert!(futures::poll!(&mut waiting).is_pending() && futures::poll!(&mut patient).is_pending());
    {
        let mut state = gate.state.lock();
        let now = Instant::now();
        (0..FAILURES).for_each(|_| state.breaker.note(now, STRANGER, false, Some(FAILED)));
    }
    let (keeping, _) = keep(&gate, &verdict);
    assert_eq!(waiting.await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
    assert_eq!(check().await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
    assert!(futures::poll!(&mut patient).is_pending());
    assert_eq!(gate.metrics.api_waiting.get(), 1);
    drop(turn);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stranger_whose_calls_fail_has_an_api_left_alone_that_breaks_without_cookies_for_itself_alone() {
    let gate = gate(4, 100);
    let (keeping, _) = keep(&gate, &Arc::new(Mutex::new(FAILED)));
    for round in 0..100 {
        while let Ok(turn) = gate.turn(stranger(&gate, Patience::Short)).await {
            turn.end(FAILED);
            tokio::task::yield_now().await;
            if gate.state.lock().breaker.probe_due().is_some_and(|due| due > Instant::now()) {
                break;
            }
        }
        short(&gate).await.unwrap_or_else(|busy| panic!("round {round}: {busy:?}")).end(Verdict::Fine);
        assert_eq!(gate.metrics.api_paused.get(), 0, "round {round}");
        tokio::time::sleep(Duration::from_millis(300 * (round % 8))).await;
    }
    assert!(gate.metrics.api_pauses.get() > 0);
    keeping.abort();
}
