//! The server as its clients, its backend and its publishers see it: real sockets, real processes, a real RabbitMQ.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how a test fails")]

mod authentication;
mod bench;
mod broker_contract;
mod broker_faults;
mod channelstream;
mod closing;
mod cluster;
mod command_line;
mod control;
mod control_everywhere;
mod costs;
mod delivery;
mod descriptors;
mod documentation;
mod early;
mod embedded_log;
mod framing;
mod grants;
mod half_closed;
mod header_lines;
mod holds;
mod hooks;
mod hostile;
mod hostile_publishers;
mod inspect;
mod internal;
mod kept_connections;
mod large_triggers;
mod ledger;
mod limits;
mod logging;
mod methods;
mod nothing_lost;
mod orphans;
mod outage;
mod permissions;
mod protection;
mod rechecks;
mod recovery;
mod renewal;
mod requests;
mod rfc9112;
mod scripts;
mod server_sent_events;
mod slow_clients;
mod stale_connections;
mod status;
mod stopping;
mod strangers;
mod support;
mod tickets;
mod transcripts;
mod unread;
