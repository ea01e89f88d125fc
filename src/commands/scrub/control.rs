//! When a device's thread must wait or stop: signals, and what the node says of the device.

use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::node::Health;

/// Between two looks of one who waits.
const STEP: Duration = Duration::from_millis(50);

/// Why a thread leaves its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// A signal, or nobody reads the findings any more.
    Stopped,
    /// The node calls the device so.
    Sick(Health),
}

/// The signal that ends the command; 0: none.
pub type Stop = Arc<AtomicI32>;

/// What one device's thread asks all the time.
#[derive(Clone)]
pub struct Control {
    stop: Stop,
    patience: Duration,
    health: Arc<Mutex<(Health, Instant)>>,
}

impl Control {
    /// For one device, which is well until told otherwise.
    pub fn new(stop: Stop, patience: Duration) -> Control {
        let health = Arc::new(Mutex::new((Health::Fine, Instant::now())));
        Control { stop, patience, health }
    }

    /// What the node says of the device now.
    pub fn note(&self, health: Health) {
        let mut noted = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.0 != health {
            *noted = (health, Instant::now());
        }
    }

    /// Before anything that touches the device: waits while it is stalled.
    pub fn check(&self) -> Result<(), Halt> {
        loop {
            if self.stop.load(Relaxed) != 0 {
                return Err(Halt::Stopped);
            }
            match self.health() {
                (Health::Fine, _) => return Ok(()),
                (Health::Stalled, since) if since < self.patience => thread::sleep(STEP),
                (sick, _) => return Err(Halt::Sick(sick)),
            }
        }
    }

    /// Whether a thread that does not come back from the device need not be waited for.
    pub fn is_given_up(&self) -> bool {
        let (health, since) = self.health();
        health != Health::Fine && since > self.patience + Duration::from_secs(2)
    }

    /// What the node says, and for how long it has.
    pub fn health(&self) -> (Health, Duration) {
        let (health, since) = *self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health, since.elapsed())
    }
}
