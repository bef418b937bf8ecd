//! What a program writes, collected while it runs.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

use crate::Deadline;

/// Reads a stream to its end on a thread of its own, so that the writer never blocks.
#[derive(Debug)]
pub struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts to read.
    pub fn collect(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            // An error is an end too: a terminal's reader gets EIO when the last program has closed it.
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let part = buffer.get(..count).unwrap_or_default();
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    /// What has come until now.
    #[must_use]
    pub fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has come until now, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.so_far()).into_owned()
    }

    /// Waits until `text` is in it.
    ///
    /// # Errors
    /// When it is not by the deadline or at the end of the output, with what has come instead.
    pub fn wait_for(&self, text: &str, deadline: Deadline) -> Result<()> {
        let look = || {
            // In this order: what came with the end is there once the end is seen.
            let ended = self.has_ended();
            let there = self.text().contains(text);
            ensure!(there || !ended, "the output ended without {text:?}");
            Ok(there.then_some(()))
        };
        deadline
            .wait_for(&format!("output {text:?}"), look)
            .with_context(|| format!("the output is {:?}", self.text()))
    }

    /// Whether the last writer has closed it.
    fn has_ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the last writer has closed it.
    ///
    /// # Errors
    /// When somebody still has it open at the deadline: a leaked process.
    pub fn to_end(mut self, deadline: Deadline) -> Result<Vec<u8>> {
        let reader = self.reader.take().context("the output was read to its end before")?;
        deadline.wait_for("the end of the output", || Ok(reader.is_finished().then_some(())))?;
        Ok(self.so_far())
    }
}
