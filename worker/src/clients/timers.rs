//! Deadlines of connections, without a heap or a timer system call: each kind of wait has one
//! fixed length, so a list per kind, in order of arrival, is in order of expiry too. All
//! operations take constant time; the loop looks at the heads only.

/// What a connection waits for, as far as time is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Wait {
    /// Between requests.
    Idle = 0,
    /// In the middle of a request's head.
    Head = 1,
    /// For the peer to send more of a body, or to take more of an answer.
    Body = 2,
    /// For the peer to close after our last answer.
    Linger = 3,
}

const KINDS: usize = 4;
const NONE: u32 = u32::MAX;

/// The lists, linked through an array that is indexed by the connections' keys.
#[derive(Debug)]
pub struct Timers {
    links: Vec<Link>,
    ends: [Ends; KINDS],
}

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
    /// Milliseconds on the loop's clock.
    since: u64,
    kind: u8,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const UNLINKED: u8 = u8::MAX;

impl Default for Timers {
    fn default() -> Self {
        Timers { links: Vec::new(), ends: [Ends { first: NONE, last: NONE }; KINDS] }
    }
}

impl Timers {
    /// Starts a wait now, at the end of its list; ends any other wait of this key.
    pub fn start(&mut self, key: usize, wait: Wait, now: u64) {
        self.stop(key);
        if self.links.len() <= key {
            let unlinked = Link { before: NONE, after: NONE, since: 0, kind: UNLINKED };
            self.links.resize(key + 1, unlinked);
        }
        let ends = &mut self.ends[wait as usize];
        let last = std::mem::replace(&mut ends.last, key as u32);
        match last {
            NONE => ends.first = key as u32,
            last => self.links[last as usize].after = key as u32,
        }
        self.links[key] = Link { before: last, after: NONE, since: now, kind: wait as u8 };
    }

    /// As [`Timers::start`], but a wait of this kind that is under way keeps its beginning.
    pub fn keep(&mut self, key: usize, wait: Wait, now: u64) {
        if self.links.get(key).is_none_or(|link| link.kind != wait as u8) {
            self.start(key, wait, now);
        }
    }

    /// Gives memory back that the last keys have left.
    pub fn shrink(&mut self) {
        let used = self.links.iter().rposition(|link| link.kind != UNLINKED);
        self.links.truncate(used.map_or(0, |last| last + 1));
        self.links.shrink_to_fit();
    }

    /// Ends the wait of a key, if it has one.
    pub fn stop(&mut self, key: usize) {
        let Some(link) = self.links.get_mut(key) else { return };
        if link.kind == UNLINKED {
            return;
        }
        let Link { before, after, kind, .. } = *link;
        link.kind = UNLINKED;
        let ends = &mut self.ends[usize::from(kind)];
        match before {
            NONE => ends.first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NONE => ends.last = before,
            after => self.links[after as usize].before = before,
        }
    }

    /// Since when a key has been waiting, if it is.
    pub fn since(&self, key: usize) -> Option<u64> {
        let link = self.links.get(key)?;
        (link.kind != UNLINKED).then_some(link.since)
    }

    /// The key that has waited longest in this way, and since when.
    pub fn oldest(&self, wait: Wait) -> Option<(usize, u64)> {
        match self.ends[wait as usize].first {
            NONE => None,
            key => Some((key as usize, self.links[key as usize].since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(timers: &mut Timers, wait: Wait) -> Vec<usize> {
        std::iter::from_fn(|| {
            let (key, _) = timers.oldest(wait)?;
            timers.stop(key);
            Some(key)
        })
        .collect()
    }

    #[test]
    fn waits_come_out_in_order_of_their_start() {
        let mut timers = Timers::default();
        for key in [4, 1, 3] {
            timers.start(key, Wait::Idle, key as u64);
        }
        timers.start(4, Wait::Idle, 9);
        timers.start(2, Wait::Head, 10);
        assert_eq!(timers.oldest(Wait::Idle), Some((1, 1)));
        assert_eq!(drain(&mut timers, Wait::Idle), [1, 3, 4]);
        assert_eq!(drain(&mut timers, Wait::Head), [2]);
        assert_eq!(timers.oldest(Wait::Idle), None);
    }

    #[test]
    fn keep_leaves_the_beginning_of_a_wait_alone() {
        let mut timers = Timers::default();
        timers.start(0, Wait::Head, 5);
        timers.keep(0, Wait::Head, 50);
        assert_eq!(timers.oldest(Wait::Head), Some((0, 5)));
        timers.keep(0, Wait::Body, 60);
        assert_eq!(timers.oldest(Wait::Head), None);
        assert_eq!(timers.oldest(Wait::Body), Some((0, 60)));
    }

    #[test]
    fn stopping_what_never_started_changes_nothing() {
        let mut timers = Timers::default();
        timers.stop(7);
        timers.start(1, Wait::Linger, 1);
        timers.stop(0);
        timers.stop(1);
        timers.stop(1);
        assert_eq!(timers.oldest(Wait::Linger), None);
    }
}
