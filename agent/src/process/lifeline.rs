//! What a process hangs by: the connection on which it was made.

use tokio::sync::watch;

/// The end that is held. Dropped, it cuts the line.
#[derive(Debug)]
pub struct Holder(#[expect(dead_code, reason = "it is there to be dropped")] watch::Sender<()>);

/// The end that a process hangs on.
#[derive(Clone, Debug)]
pub struct Lifeline(watch::Receiver<()>);

/// A new line.
pub fn lifeline() -> (Holder, Lifeline) {
    let (sender, receiver) = watch::channel(());
    (Holder(sender), Lifeline(receiver))
}

impl Lifeline {
    /// Waits until the line is cut.
    pub async fn cut(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}
