//! What a client has shown of itself, and what the application has said of that.

/// The credentials of one connection.
pub(in super::super) struct Credentials {
    /// Those that were shown last.
    pub(super) identity: usize,
    state: State,
    /// How often the application has confirmed others than those of the handshake, and how often they were tried because it had
    /// refused the ones before.
    pub(in super::super) confirmed: usize,
    pub(in super::super) tried_again: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Confirmed,
    Unconfirmed,
    LastTry,
}

impl Credentials {
    pub(super) fn new(identity: usize) -> Self {
        Self { identity, state: State::Confirmed, confirmed: 0, tried_again: 0 }
    }

    /// The client shows those of `identity`.
    pub(in super::super) fn show(&mut self, identity: usize) {
        if self.identity != identity && self.state == State::Confirmed {
            self.state = State::Unconfirmed;
        }
        self.identity = identity;
    }

    pub(in super::super) fn are_confirmed(&self) -> bool {
        self.state == State::Confirmed
    }

    /// The application knows the client by `identity`. Whether that confirms what was not confirmed before.
    pub(super) fn confirm(&mut self, identity: usize) -> bool {
        let is_current = self.identity == identity;
        let is_news = is_current && self.state != State::Confirmed;
        match self.state {
            _ if is_current => self.state = State::Confirmed,
            State::LastTry => self.state = State::Unconfirmed,
            State::Confirmed | State::Unconfirmed => {}
        }
        self.confirmed += usize::from(is_news);
        is_news
    }

    /// The application does not know the client by `identity`. Whether it is to be asked about others, which were shown since.
    pub(super) fn refuse(&mut self, identity: usize) -> bool {
        let has_another_try = self.identity != identity && self.state != State::LastTry;
        if has_another_try {
            self.state = State::LastTry;
            self.tried_again += 1;
        }
        has_another_try
    }
}
