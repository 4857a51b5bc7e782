use std::sync::Arc;

use tokio::time::advance;

use super::*;
use crate::backend::Changes;

const TTL: Duration = Duration::from_secs(60);
const ME: Uuid = Uuid::from_u128(1);
const ROOM: &str = r#"{"a":"*"}"#;

fn tickets_checked_every(secret: &str, ttl: Duration, interval: Option<Duration>) -> Tickets {
    let config = config::Resume { secret: config::Secret::new(secret), ttl };
    let mut tickets = Tickets::new(&config, interval, 1 << 20);
    tickets.clock = Clock::simulated();
    tickets
}

fn tickets(secret: &str) -> Tickets {
    tickets_checked_every(secret, TTL, None)
}

fn backend() -> Arc<Backend> {
    let api = ("API_URL".to_owned(), "http://localhost/".to_owned());
    let config = config::from_vars([api].into_iter()).unwrap();
    Backend::new(config.backend, Changes::new(Duration::ZERO), Arc::default()).unwrap()
}

fn identity() -> Identity {
    Identity::from_bytes(b"cookie:a=1\n")
}

fn room(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn issue_for(tickets: &Tickets, rooms: &[&str], confirmation: &Confirmation) -> Option<String> {
    let rooms = rooms.iter().map(|text| room(text)).collect();
    let allowed = backend().admission(rooms, Some("17")).unwrap().allowed;
    tickets.issue(&Contents {
        connection: ME,
        identity: &identity(),
        user: Some("17"),
        allowed: &allowed,
        earlier: &[],
        position: "00000000000e:17".parse().unwrap(),
        confirmed: confirmation.at,
        end: tickets.end(confirmation)?,
    })
}

/// A ticket of a client that the backend has just confirmed.
fn issue(tickets: &Tickets) -> String {
    issue_for(tickets, &[ROOM], &Confirmation::new(Instant::now())).unwrap()
}

fn redeem(tickets: &Tickets, ticket: &str) -> Result<Confirmation, Refused> {
    tickets.redeem(ticket, &identity(), &backend()).map(|holder| holder.confirmation)
}

#[tokio::test(start_paused = true)]
async fn a_ticket_counts_for_the_same_cookies_and_on_every_instance_with_the_secret() {
    let ticket = issue(&tickets("one"));
    let holder = tickets("one").redeem(&ticket, &identity(), &backend()).unwrap();
    assert_eq!((holder.connection, holder.position.to_string().as_str()), (ME, "00000000000e:17"));
    assert_eq!(holder.admission.user.as_deref(), Some("17"));
    assert_eq!(holder.admission.allowed.rooms().collect::<Vec<_>>(), [ROOM]);
    let other = Identity::from_bytes(b"cookie:a=2\n");
    assert_eq!(tickets("one").redeem(&ticket, &other, &backend()).map(drop), Err(Refused::Invalid));
    assert_eq!(redeem(&tickets("two"), &ticket).map(drop), Err(Refused::Invalid));
}

#[tokio::test(start_paused = true)]
async fn no_change_of_any_letter_goes_unnoticed() {
    let (backend, identity, tickets) = (backend(), identity(), tickets("one"));
    let ticket = issue(&tickets);
    for at in 0..ticket.len() {
        let mut changed = ticket.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(tickets.redeem(&changed, &identity, &backend).map(drop), Err(Refused::Invalid), "{at}");
    }
    for other in ["", ".", "a.b", &ticket[1..], &ticket[..ticket.len() - 2]] {
        assert_eq!(tickets.redeem(other, &identity, &backend).map(drop), Err(Refused::Invalid));
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_ticket_or_one_of_too_many_rooms_is_none() {
    let tickets = tickets("one");
    let ticket = issue(&tickets);
    advance(TTL - Duration::from_millis(1)).await;
    assert!(redeem(&tickets, &ticket).is_ok());
    advance(Duration::from_millis(1)).await;
    assert_eq!(redeem(&tickets, &ticket).map(drop), Err(Refused::Expired));
    let rooms: Vec<_> = (0..6).map(|key| format!(r#"{{"{key}":"{}"}}"#, "x".repeat(LONGEST_BYTES / 5))).collect();
    let rooms: Vec<_> = rooms.iter().map(String::as_str).collect();
    assert_eq!(issue_for(&tickets, &rooms, &Confirmation::new(Instant::now())), None);
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_tickets_ends_with_the_first_one_unless_the_backend_confirms_it() {
    let instances = [tickets("one"), tickets("one"), tickets("one")];
    let start = Instant::now();
    let mut ticket = issue(&instances[0]);
    let mut links = 0;
    while let Ok(confirmation) = redeem(&instances[links % 3], &ticket) {
        assert!(confirmation.at == start && links < 100, "{links}");
        assert_eq!(instances[0].is_old(&confirmation), start.elapsed() > TTL / 2);
        links += 1;
        advance(Duration::from_secs(9)).await;
        // The client stays for a moment, and is given the next one.
        ticket = issue_for(&instances[links % 3], &[ROOM], &confirmation).unwrap_or(ticket);
    }
    assert_eq!((links, start.elapsed()), (7, Duration::from_secs(63)));
    // A connection that was there all the time vouches for itself, and so does a confirmation.
    let mut confirmation = Confirmation::new(start);
    let ticket = issue_for(&instances[0], &[ROOM], &confirmation).unwrap();
    advance(TTL - Duration::from_secs(1)).await;
    confirmation = redeem(&instances[1], &ticket).unwrap();
    confirmation.renew(Instant::now());
    let ticket = issue_for(&instances[1], &[ROOM], &confirmation).unwrap();
    advance(TTL - Duration::from_secs(1)).await;
    assert!(redeem(&instances[2], &ticket).is_ok());
}

#[tokio::test(start_paused = true)]
async fn with_an_interval_a_ticket_counts_no_longer_than_that_beyond_the_confirmation() {
    let interval = Duration::from_secs(10);
    let (strict, lax) = (tickets_checked_every("one", TTL, Some(interval)), tickets("one"));
    let confirmation = Confirmation::new(Instant::now());
    let (by_strict, by_lax) = (issue(&strict), issue(&lax));
    advance(Duration::from_secs(8)).await;
    assert!(redeem(&strict, &by_strict).is_ok() && redeem(&strict, &by_lax).is_ok());
    let later = issue_for(&strict, &[ROOM], &confirmation).unwrap();
    advance(Duration::from_secs(1)).await;
    assert!(strict.end(&confirmation).is_some());
    advance(Duration::from_millis(600)).await;
    assert_eq!(strict.end(&confirmation), None, "one that is of no use is not given");
    advance(Duration::from_millis(400)).await;
    for ticket in [by_strict, by_lax, later] {
        assert_eq!(redeem(&strict, &ticket).map(drop), Err(Refused::Expired));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_by_more_than_the_time_of_a_ticket_gives_none_that_counts() {
    let (here, ahead) = (tickets("one"), tickets("one"));
    for (milliseconds, counts) in [(3_600_000, false), (60_001, false), (60_000, true), (0, true), (-59_999, true)] {
        ahead.clock.set_ahead(milliseconds);
        let refused = redeem(&here, &issue(&ahead)).err();
        assert_eq!(refused, (!counts).then_some(Refused::Ahead), "{milliseconds}");
    }
    ahead.clock.set_ahead(-60_000);
    assert_eq!(redeem(&here, &issue(&ahead)).err(), Some(Refused::Expired));
    // One of a connection that has been there for long says so by its end.
    let old = Confirmation::new(Instant::now());
    advance(Duration::from_secs(3600)).await;
    ahead.clock.set_ahead(3_600_000);
    assert_eq!(redeem(&here, &issue_for(&ahead, &[ROOM], &old).unwrap()).err(), Some(Refused::Ahead));
    // The clock goes back.
    let ticket = issue(&here);
    here.clock.set_ahead(-3_600_000);
    assert_eq!(redeem(&here, &ticket).err(), Some(Refused::Ahead));
    here.clock.set_ahead(0);
    assert!(redeem(&here, &ticket).is_ok());
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_make_no_chain_longer_than_by_their_difference() {
    let instances = [tickets("one"), tickets("one")];
    instances[0].clock.set_ahead(50_000);
    let start = Instant::now();
    let mut ticket = issue(&instances[0]);
    let mut links = 1;
    while let Ok(confirmation) = redeem(&instances[links % 2], &ticket) {
        links += 1;
        assert!(links < 100, "it has no end");
        advance(Duration::from_secs(3)).await;
        ticket = issue_for(&instances[(links + 1) % 2], &[ROOM], &confirmation).unwrap_or(ticket);
    }
    assert!(start.elapsed() <= TTL + Duration::from_secs(53), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_ticket_says_which_of_its_rooms_its_holder_could_not_join_before() {
    let (tickets, backend) = (tickets("one"), backend());
    let rooms = [ROOM, r#"{"b":1}"#, r#"{"b":2}"#];
    let allowed =
        |rooms: &[&str]| backend.admission(rooms.iter().map(|text| room(text)).collect(), Some("17")).unwrap().allowed;
    let earlier = [
        Earlier { until: 1, offset: Some(3), allowed: allowed(&[r#"{"b":"*"}"#]) },
        Earlier { until: 2, offset: None, allowed: allowed(&[ROOM, rooms[1]]) },
        Earlier { until: 3, offset: Some(9), allowed: allowed(&[ROOM, r#"{"b":"*"}"#, r#"{"c":1}"#]) },
    ];
    let confirmation = Confirmation::new(Instant::now());
    let ticket = tickets.issue(&Contents {
        connection: ME,
        identity: &identity(),
        user: Some("17"),
        allowed: &allowed(&rooms),
        earlier: &earlier,
        position: "00000000000e:17".parse().unwrap(),
        confirmed: confirmation.at,
        end: tickets.end(&confirmation).unwrap(),
    });
    let holder = tickets.redeem(&ticket.unwrap(), &identity(), &backend).unwrap();
    let told: Vec<(u64, Vec<&str>)> = holder
        .earlier
        .iter()
        .map(|(offset, allowed)| {
            let mut rooms: Vec<_> = allowed.rooms().collect();
            rooms.sort_unstable();
            (*offset, rooms)
        })
        .collect();
    assert_eq!(told, [(3, vec![rooms[1], rooms[2]]), (17, vec![ROOM, rooms[1]])]);
}
