use super::*;

const DRAIN: Duration = Duration::from_secs(30);
const A: WorkerId = WorkerId(0);
const B: WorkerId = WorkerId(1);

/// A policy with a clock, and processes numbered from 100.
struct Node {
    policy: Policy,
    now: Instant,
    next_pid: i32,
    /// How long a worker lives after it is ready.
    lives: Duration,
}

impl Node {
    /// With so many workers forked, none ready.
    fn starting(workers: u16) -> Node {
        let mut node = Node {
            policy: Policy::new(DRAIN, 1),
            now: Instant::now(),
            next_pid: 100,
            lives: AT_ONCE,
        };
        for n in 0..workers {
            node.policy.add(Duty::Shared(n), node.now).unwrap();
        }
        node.fork_due();
        node
    }

    fn running(workers: u16) -> Node {
        let mut node = Node::starting(workers);
        for n in 0..workers {
            node.tell(Event::Ready(WorkerId(n)));
        }
        assert_eq!(node.policy.phase(), Phase::Running);
        node
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.policy.handle(event, self.now)
    }

    fn exit(&mut self, worker: WorkerId, exit: Exit) -> Vec<Action> {
        self.tell(Event::Exited { worker, exit })
    }

    /// Runs a tick and forks what it asks for; returns all of its actions.
    fn fork_due(&mut self) -> Vec<Action> {
        let actions = self.tell(Event::Tick);
        for action in &actions {
            if let Action::Spawn(worker) = *action {
                self.next_pid += 1;
                self.tell(Event::Forked { worker, pid: self.next_pid });
            }
        }
        actions
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets a ready worker crash, waits out the delay, makes its successor ready.
    fn crash_and_recover(&mut self, exit: Exit) -> Duration {
        let actions = self.exit(A, exit);
        let [Action::Respawn { worker: A, delay, .. }] = actions[..] else { panic!("{actions:?}") };
        self.pass(delay);
        assert_eq!(self.fork_due(), [Action::Spawn(A)]);
        assert_eq!(self.tell(Event::Ready(A)), [Action::Started(A)]);
        self.pass(self.lives);
        delay
    }
}

#[test]
fn node_is_ready_when_the_last_worker_is() {
    let mut node = Node::starting(2);
    assert_eq!(node.tell(Event::Ready(B)), [Action::Started(B)]);
    assert_eq!(node.policy.phase(), Phase::Starting);
    assert_eq!(node.tell(Event::Ready(A)), [Action::Started(A), Action::NodeReady]);
    assert_eq!(node.tell(Event::Ready(A)), [], "said twice");
}

#[test]
fn worker_that_exits_before_it_was_ready_fails_the_start() {
    let mut node = Node::starting(2);
    node.tell(Event::Ready(B));
    let exit = Exit::Status(3);
    let expected =
        [Action::StartFailed { worker: A, exit }, Action::NodeDraining, Action::Drain(B)];
    assert_eq!(node.exit(A, exit), expected);
    assert_eq!(node.exit(B, Exit::Status(0)), [Action::Finish(1)]);
}

#[test]
fn failed_start_does_not_wait_for_the_others_for_long() {
    let mut node = Node::starting(2);
    node.exit(A, Exit::Signal(11));
    node.pass(LEAVE_AFTER);
    assert_eq!(node.tell(Event::Tick), [Action::Kill(B)]);
    node.pass(LEAVE_AFTER);
    assert_eq!(node.tell(Event::Tick), [Action::Finish(1)]);
}

#[test]
fn worker_that_crashes_after_it_was_ready_is_respawned_while_others_start() {
    let mut node = Node::starting(2);
    node.tell(Event::Ready(A));
    let respawn = Action::Respawn { worker: A, delay: Duration::ZERO, crashed: true };
    assert_eq!(node.exit(A, Exit::Signal(11)), [respawn]);
}

#[test]
fn respawn_comes_at_once_then_later_and_later() {
    let mut node = Node::running(2);
    let delays: Vec<u128> =
        (0..10).map(|_| node.crash_and_recover(Exit::Status(1)).as_millis()).collect();
    assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
}

#[test]
fn killed_worker_is_never_away_for_more_than_a_second() {
    let mut node = Node::running(1);
    let longest = (0..200).map(|_| node.crash_and_recover(Exit::Signal(SIGKILL))).max();
    assert_eq!(longest, Some(LONGEST_DELAY_AFTER_KILL));
}

#[test]
fn worker_killed_at_once_every_time_is_forked_less_and_less() {
    let mut node = Node::running(1);
    node.lives = AT_ONCE - Duration::from_millis(1);
    let delays: Vec<u128> =
        (0..12).map(|_| node.crash_and_recover(Exit::Signal(SIGKILL)).as_millis()).collect();
    let expected = [0, 100, 200, 400, 800, 1000, 1000, 1000, 10_000, 10_000, 10_000, 10_000];
    assert_eq!(delays, expected);
    node.lives = AT_ONCE;
    node.crash_and_recover(Exit::Signal(SIGKILL));
    let again = node.crash_and_recover(Exit::Signal(SIGKILL));
    assert_eq!(again, LONGEST_DELAY_AFTER_KILL, "one longer life and it is chance again");
}

#[test]
fn new_generation_takes_over_when_all_of_it_is_ready() {
    let mut node = Node::running(1);
    node.tell(Event::Renew);
    let [c, d] = [0, 1].map(|n| node.policy.add(Duty::Shared(n), node.now).unwrap());
    assert_eq!((node.policy.generation(), node.policy.newest()), (1, 2));
    assert_eq!(node.fork_due(), [Action::Spawn(c), Action::Spawn(d)]);
    assert_eq!(node.tell(Event::Ready(c)), [Action::Started(c)]);
    assert_eq!(node.tell(Event::Ready(d)), [Action::Started(d), Action::Renewed]);
    assert_eq!(node.tell(Event::Settle), [Action::Drain(A)]);
    assert_eq!(node.policy.generation(), 2);
    assert_eq!(node.exit(A, Exit::Status(0)), [Action::Release(A)]);
}

#[test]
fn new_generation_that_cannot_start_goes_again() {
    let mut node = Node::running(1);
    node.tell(Event::Renew);
    let [c, d] = [0, 1].map(|n| node.policy.add(Duty::Shared(n), node.now).unwrap());
    node.fork_due();
    node.tell(Event::Ready(d));
    let exit = Exit::Status(1);
    let failed = [Action::Release(c), Action::RenewalFailed { worker: c, exit }];
    assert_eq!(node.exit(c, exit), failed);
    assert_eq!(node.tell(Event::FallBack), [Action::Drain(d)]);
    assert_eq!(node.exit(d, Exit::Status(0)), [Action::Release(d)]);
    assert_eq!((node.policy.generation(), node.policy.newest()), (1, 1));
    node.tell(Event::Renew);
    assert_eq!(node.policy.newest(), 3, "a number is used once");
}

#[test]
fn old_worker_that_crashes_during_a_renewal_is_respawned() {
    let mut node = Node::running(1);
    node.tell(Event::Renew);
    node.policy.add(Duty::Shared(0), node.now).unwrap();
    let respawn = Action::Respawn { worker: A, delay: Duration::ZERO, crashed: true };
    assert_eq!(node.exit(A, Exit::Signal(11)), [respawn]);
}

#[test]
fn resting_node_keeps_its_master_and_wakes_with_a_new_generation() {
    let mut node = Node::running(2);
    assert_eq!(node.tell(Event::Rest), [Action::Drain(A), Action::Drain(B)]);
    assert_eq!(node.exit(A, Exit::Status(0)), [Action::Release(A)]);
    assert_eq!(node.exit(B, Exit::Status(0)), [Action::Release(B)]);
    assert_eq!(node.tell(Event::Tick), []);
    assert_eq!(node.policy.phase().name(), "resting");
    node.tell(Event::Renew);
    assert_eq!(node.policy.phase(), Phase::Running);
    let c = node.policy.add(Duty::Shared(0), node.now).unwrap();
    assert_eq!(node.fork_due(), [Action::Spawn(c)]);
    node.exit(c, Exit::Status(1));
    assert_eq!(node.fork_due(), [Action::Spawn(c)], "there is nothing to fall back to");
    assert_eq!(node.tell(Event::Ready(c)), [Action::Started(c), Action::Renewed]);
    assert_eq!(node.tell(Event::Settle), []);
}

#[test]
fn resting_node_can_quit() {
    let mut node = Node::running(1);
    node.tell(Event::Rest);
    node.exit(A, Exit::Status(0));
    assert_eq!(node.tell(Event::Quit), [Action::NodeDraining, Action::Finish(0)]);
}

#[test]
fn healthy_minute_makes_crashes_forgotten_and_less_does_not() {
    let mut node = Node::running(1);
    node.lives = Duration::ZERO;
    node.crash_and_recover(Exit::Status(1));
    node.crash_and_recover(Exit::Status(1));
    node.pass(HEALTHY - Duration::from_millis(1));
    assert_eq!(node.crash_and_recover(Exit::Status(1)), FIRST_DELAY * 2);
    node.pass(HEALTHY);
    assert_eq!(node.crash_and_recover(Exit::Status(1)), Duration::ZERO);
}

#[test]
fn fork_that_fails_is_tried_again_with_growing_delay() {
    let mut node = Node::running(1);
    node.exit(A, Exit::Status(1));
    assert_eq!(node.tell(Event::Tick), [Action::Spawn(A)]);
    let again = Action::Respawn { worker: A, delay: FIRST_DELAY, crashed: true };
    assert_eq!(node.tell(Event::ForkFailed(A)), [again]);
    assert_eq!(node.tell(Event::Tick), []);
    assert_eq!(node.policy.deadline(), Some(node.now + FIRST_DELAY));
    node.pass(FIRST_DELAY);
    assert_eq!(node.tell(Event::Tick), [Action::Spawn(A)]);
}

#[test]
fn worker_that_was_told_to_quit_is_replaced_at_once_each_time() {
    let mut node = Node::running(1);
    for _ in 0..5 {
        node.tell(Event::Drained(A));
        assert_eq!(node.crash_and_recover(Exit::Status(0)), Duration::ZERO);
    }
}

#[test]
fn worker_that_exits_unasked_counts_as_crashed() {
    let mut node = Node::running(1);
    assert_eq!(node.crash_and_recover(Exit::Status(0)), Duration::ZERO);
    assert_eq!(node.crash_and_recover(Exit::Status(0)), FIRST_DELAY);
}

#[test]
fn retired_worker_is_not_replaced_and_killed_when_it_stays() {
    let mut node = Node::running(2);
    assert_eq!(node.tell(Event::Retire(B)), [Action::Drain(B)]);
    node.tell(Event::Drained(B));
    assert_eq!(node.policy.deadline(), Some(node.now + DRAIN));
    node.pass(DRAIN);
    assert_eq!(node.tell(Event::Tick), [Action::Kill(B)]);
    assert_eq!(node.tell(Event::Tick), [], "killed twice");
    assert_eq!(node.exit(B, Exit::Signal(SIGKILL)), [Action::Release(B)]);
    assert!(node.policy.children().child(B).is_none());
}

#[test]
fn retired_worker_without_process_is_forgotten_at_once() {
    let mut node = Node::running(2);
    node.exit(B, Exit::Status(1));
    assert_eq!(node.tell(Event::Retire(B)), [Action::Release(B)]);
    assert_eq!(node.tell(Event::Tick), []);
}

#[test]
fn quit_drains_every_worker_and_finishes_with_the_last() {
    let mut node = Node::running(2);
    let expected = [Action::NodeDraining, Action::Drain(A), Action::Drain(B)];
    assert_eq!(node.tell(Event::Quit), expected);
    assert_eq!(node.tell(Event::Quit), []);
    node.tell(Event::Drained(A));
    assert_eq!(node.exit(A, Exit::Status(0)), []);
    assert_eq!(node.tell(Event::Tick), [], "respawned in a drain");
    assert_eq!(node.exit(B, Exit::Status(0)), [Action::Finish(0)]);
}

#[test]
fn worker_that_crashes_in_the_drain_is_not_respawned() {
    let mut node = Node::running(1);
    node.tell(Event::Terminate);
    assert_eq!(node.exit(A, Exit::Signal(11)), [Action::Finish(0)]);
}

#[test]
fn quit_with_all_workers_dead_finishes_at_once() {
    let mut node = Node::running(1);
    node.exit(A, Exit::Status(1));
    assert_eq!(node.tell(Event::Quit), [Action::NodeDraining, Action::Finish(0)]);
}

#[test]
fn drain_timeout_kills_and_never_waits_for_the_unkillable() {
    let mut node = Node::running(1);
    node.tell(Event::Quit);
    node.pass(DRAIN - Duration::from_millis(1));
    assert_eq!(node.tell(Event::Tick), []);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.tell(Event::Tick), [Action::Kill(A)]);
    node.pass(LEAVE_AFTER);
    assert_eq!(node.tell(Event::Tick), [Action::Finish(0)]);
}

#[test]
fn drain_without_timeout_waits_for_ever() {
    let mut node = Node::running(1);
    node.policy.drain_timeout = None;
    node.tell(Event::Quit);
    assert_eq!(node.policy.deadline(), None);
    node.pass(Duration::from_secs(1_000_000));
    assert_eq!(node.tell(Event::Tick), []);
}

#[test]
fn second_termination_ends_it_at_once() {
    let mut node = Node::running(2);
    node.tell(Event::Quit);
    assert_eq!(node.tell(Event::Terminate), [], "the first one drains");
    assert_eq!(node.tell(Event::Terminate), [Action::Kill(A), Action::Kill(B)]);
    assert_eq!(node.exit(A, Exit::Signal(SIGKILL)), []);
    assert_eq!(node.exit(B, Exit::Signal(SIGKILL)), [Action::Finish(0)]);
}

#[test]
fn quit_while_starting_is_a_drain_like_any_other() {
    let mut node = Node::starting(1);
    assert_eq!(node.tell(Event::Quit), [Action::NodeDraining, Action::Drain(A)]);
    assert_eq!(node.tell(Event::Ready(A)), []);
    assert_eq!(node.exit(A, Exit::Status(0)), [Action::Finish(0)]);
}

#[test]
fn exits_are_told_in_words() {
    assert_eq!(Exit::Status(3).to_string(), "exited with status 3");
    assert_eq!(Exit::Signal(SIGKILL).to_string(), "was ended by SIGKILL");
    assert_eq!(Exit::Signal(40).to_string(), "was ended by signal 40");
}
