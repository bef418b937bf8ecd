//! Waiting for a condition until a point in time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::Setup;

/// Between two looks at a condition that has no event.
const INTERVAL: Duration = Duration::from_millis(5);

/// A point in time after which waiting is an error.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Instant,
    length: Duration,
}

impl Deadline {
    /// `length` from now; longer in the nested host.
    ///
    /// # Errors
    /// When the set-up is wrong.
    pub fn after(length: Duration) -> Result<Self> {
        let length = Setup::get()?.patience(length);
        Ok(Self { end: Instant::now() + length, length })
    }

    /// A minute: for all that ends by itself.
    ///
    /// # Errors
    /// When the set-up is wrong.
    pub fn generous() -> Result<Self> {
        Self::after(Duration::from_secs(60))
    }

    /// What is left of it.
    #[must_use]
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Looks at `condition` until it gives a value.
    ///
    /// # Errors
    /// When it has given none by then, or an error.
    pub fn wait_for<T>(self, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            let late = self.left().is_zero();
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if late {
                bail!("waited {:?} in vain for: {what}", self.length);
            }
            thread::sleep(INTERVAL);
        }
    }
}
