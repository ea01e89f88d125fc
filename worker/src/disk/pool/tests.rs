use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

struct Step(Box<dyn FnOnce() + Send>);

impl Job for Step {
    fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
        (self.0)();
        None
    }
}

fn blocker() -> (Step, Sender<()>, Receiver<()>) {
    let (release, released) = channel();
    let (tell, started) = channel();
    let step = Step(Box::new(move || {
        tell.send(()).unwrap();
        let _ = released.recv_timeout(Duration::from_secs(10));
    }));
    (step, release, started)
}

#[test]
fn threads_are_bounded_and_the_queue_is_too() {
    let pool = Pool::new("test".into(), 2);
    let (one, release_one, started_one) = blocker();
    let (two, release_two, started_two) = blocker();
    assert!(pool.submit(one, 1).is_ok());
    started_one.recv().unwrap();
    assert!(pool.submit(two, 1).is_ok());
    started_two.recv().unwrap();
    let (tell, done) = channel();
    let waiting = Step(Box::new(move || tell.send(()).unwrap()));
    assert!(pool.submit(waiting, 1).is_ok());
    assert_eq!(pool.in_flight(), 3);
    assert!(pool.submit(Step(Box::new(|| {})), 1).is_err());
    assert!(pool.oldest().is_some());
    assert!(!pool.has_answered());
    release_one.send(()).unwrap();
    done.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(pool.has_answered());
    release_two.send(()).unwrap();
}

#[test]
fn raised_limit_helps_those_who_wait_already() {
    let pool = Pool::new("test".into(), 1);
    let (one, release_one, started_one) = blocker();
    let (two, release_two, started_two) = blocker();
    assert!(pool.submit(one, 9).is_ok());
    started_one.recv().unwrap();
    assert!(pool.submit(two, 9).is_ok());
    pool.set_limit(2);
    started_two.recv_timeout(Duration::from_secs(5)).unwrap();
    release_one.send(()).unwrap();
    release_two.send(()).unwrap();
}

/// A job on a disk that hangs begins, and is about to make its first call.
#[test]
fn job_that_begins_is_no_sign_of_life() {
    struct Hung(Receiver<()>, Sender<()>, fn(&Progress));
    impl Job for Hung {
        fn run(self, _: &OnDisk, progress: &Progress) -> Option<Self> {
            (self.2)(progress);
            self.1.send(()).unwrap();
            let _ = self.0.recv_timeout(Duration::from_secs(10));
            None
        }
    }
    let pool = Pool::new("test".into(), 9);
    thread::sleep(Duration::from_millis(60)); // The age that must not be lost.
    let mut held = Vec::new();
    let firsts: [fn(&Progress); 3] = [Progress::touch, Progress::pass, |progress| {
        progress.pass();
        progress.touch();
    }];
    for first in firsts {
        let ((release, released), (tell, begun)) = (channel(), channel());
        pool.submit(Hung(released, tell, first), 9).ok().unwrap();
        begun.recv_timeout(Duration::from_secs(10)).unwrap();
        held.push(release);
    }
    let age = || pool.evidence(Duration::ZERO).0.since_completion;
    assert!(age() >= Duration::from_millis(60), "{:?}", age());
    drop(held);
    let begun = Instant::now();
    while age() >= Duration::from_millis(60) {
        assert!(begun.elapsed() < Duration::from_secs(10), "an end is a sign of life");
        thread::yield_now();
    }
}

#[test]
fn unfinished_job_lets_the_others_pass() {
    struct Long(u32, Sender<u32>, Option<Receiver<()>>);
    impl Job for Long {
        fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
            if let Some(gate) = self.2 {
                gate.recv().unwrap();
            }
            self.1.send(self.0).unwrap();
            (!self.0.is_multiple_of(10)).then(|| Long(self.0 - 1, self.1, None))
        }
    }
    let pool = Pool::new("test".into(), 1);
    let (tell, told) = channel();
    let (open, gate) = channel();
    pool.submit(Long(12, tell.clone(), Some(gate)), 9).ok().unwrap();
    pool.submit(Long(20, tell, None), 9).ok().unwrap();
    open.send(()).unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), [12, 20, 11, 10]);
}

#[test]
fn every_job_is_done_whatever_the_limit_does_meanwhile() {
    struct Turns(u32, Sender<()>);
    impl Job for Turns {
        fn run(self, _: &OnDisk, _: &Progress) -> Option<Self> {
            match self.0 {
                0 => self.1.send(()).ok().and(None),
                left => Some(Turns(left - 1, self.1)),
            }
        }
    }
    let pool = Pool::new("test".into(), 3);
    let (tell, done) = channel();
    for n in 0..2000 {
        pool.submit(Turns(n % 3, tell.clone()), usize::MAX).ok().unwrap();
        match n % 7 {
            // The threads come to rest in between.
            0 => thread::sleep(Duration::from_micros(200)),
            3 => pool.set_limit(1 + n as usize % 5),
            _ => {}
        }
    }
    for _ in 0..2000 {
        done.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    let begun = Instant::now();
    let threads = loop {
        if let Some(all) = pool.0.lock().all_at_rest() {
            break all;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "a thread is lost");
        thread::yield_now();
    };
    assert_eq!(pool.in_flight(), 0);
    assert!(threads <= 5, "{threads}");
}

#[test]
fn panic_in_a_job_costs_that_job_only() {
    let pool = Pool::new("test".into(), 1);
    let panicking = Step(Box::new(|| std::panic::resume_unwind(Box::new(()))));
    assert!(pool.submit(panicking, 9).is_ok());
    let (tell, done) = channel();
    let next = Step(Box::new(move || tell.send(()).unwrap()));
    assert!(pool.submit(next, 9).is_ok());
    done.recv_timeout(Duration::from_secs(10)).unwrap();
}
