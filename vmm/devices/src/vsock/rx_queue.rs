//! The receive queue as connections use it: one packet, or a batch of data over as many buffers as it takes.

use crate::queue::DeviceQueue;

use super::packet::{Header, PacketError, RxBuffer, Slice};

/// The receive queue, for the time of one event.
#[derive(Debug)]
pub(super) struct RxQueue<'q, 'm> {
    queue: &'q mut DeviceQueue<'m>,
    /// Buffers that were no good.
    pub(super) faults: u64,
}

/// Buffers that were taken for data. They must go to [`RxQueue::send_gathered`] or [`RxQueue::give_back`]
/// before anything else is taken.
#[derive(Debug)]
pub(super) struct Gathered<'m> {
    buffers: Vec<RxBuffer<'m>>,
    slices: Vec<Slice<'m>>,
    length: usize,
}

impl<'m> Gathered<'m> {
    /// Where the data goes.
    pub(super) fn slices(&self) -> &[Slice<'m>] {
        &self.slices
    }

    /// How much data fits.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl<'q, 'm> RxQueue<'q, 'm> {
    pub(super) fn new(queue: &'q mut DeviceQueue<'m>) -> Self {
        Self { queue, faults: 0 }
    }

    /// Asks not to be told of buffers for a while.
    pub(super) fn suppress_kicks(&mut self) {
        self.queue.suppress_kicks();
    }

    /// Asks to be kicked when there are buffers again. True when there are some already.
    pub(super) fn request_kick(&mut self) -> bool {
        self.queue.request_kick()
    }

    /// Sends a packet without payload; false when there is no buffer for it.
    pub(super) fn send(&mut self, header: Header) -> bool {
        while let Some(chain) = self.queue.pop() {
            let head = chain.head_index();
            match RxBuffer::parse(self.queue.memory(), chain) {
                Ok(buffer) => {
                    let used = buffer.write_header(header);
                    self.queue.add_used(head, used);
                    return true;
                }
                Err(error) => self.refuse(head, &error),
            }
        }
        false
    }

    /// Takes buffers for up to `limit` bytes, at least one; `None` when there is none.
    pub(super) fn gather(&mut self, limit: usize) -> Option<Gathered<'m>> {
        let mut gathered = Gathered { buffers: Vec::new(), slices: Vec::new(), length: 0 };
        while gathered.length < limit {
            let Some(chain) = self.queue.pop() else { break };
            let head = chain.head_index();
            match parse_for_data(self.queue.memory(), chain) {
                Ok(buffer) => gathered.append(buffer, limit),
                Err(error) if gathered.buffers.is_empty() => self.refuse(head, &error),
                Err(_) => {
                    // Only what was taken last can be given back, so a bad buffer must not lie between.
                    self.queue.undo_pop();
                    break;
                }
            }
        }
        if gathered.buffers.is_empty() { None } else { Some(gathered) }
    }

    /// Nothing was put into them.
    pub(super) fn give_back(&mut self, gathered: Gathered<'m>) {
        for _ in gathered.buffers {
            self.queue.undo_pop();
        }
    }

    /// The first `length` bytes were filled: sends them, each buffer as a packet of its own under `header`.
    pub(super) fn send_gathered(&mut self, gathered: Gathered<'m>, length: usize, header: Header) {
        let mut left = length;
        for buffer in gathered.buffers {
            if left == 0 {
                self.queue.undo_pop();
                continue;
            }
            let filled = left.min(buffer.capacity);
            left -= filled;
            // A buffer's capacity is at most MAX_PAYLOAD.
            let used = buffer.write_header(Header { len: u32::try_from(filled).unwrap_or(0), ..header });
            self.queue.add_used(buffer.head, used);
        }
    }

    /// A buffer that cannot hold a packet goes back empty.
    fn refuse(&mut self, head: u16, _error: &PacketError) {
        self.faults += 1;
        self.queue.add_used(head, 0);
    }
}

impl<'m> Gathered<'m> {
    fn append(&mut self, mut buffer: RxBuffer<'m>, limit: usize) {
        for slice in std::mem::take(&mut buffer.payload) {
            let wanted = slice.len().min(limit - self.length);
            let Ok(slice) = slice.subslice(0, wanted) else { break };
            if wanted == 0 {
                break;
            }
            self.length += wanted;
            self.slices.push(slice);
        }
        self.buffers.push(buffer);
    }
}

fn parse_for_data<'m>(
    memory: &'m crate::queue::GuestRam,
    chain: crate::queue::Chain<'m>,
) -> Result<RxBuffer<'m>, PacketError> {
    let buffer = RxBuffer::parse(memory, chain)?;
    // One that has room for the header alone could be gathered without end.
    if buffer.capacity == 0 { Err(PacketError::TooShort) } else { Ok(buffer) }
}
