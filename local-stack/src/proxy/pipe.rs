//! One direction of a connection: bytes in, and out again as the rules say.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Direction, Duration, Instant, OwnedReadHalf, OwnedWriteHalf, Passage, Rules, Shared, watch};

/// So much may be under way in a direction with latency; beyond, the sender waits, as at a full pipe.
const MAX_UNDER_WAY_BYTES: usize = 8 * 1024 * 1024;
const READ_BYTES: usize = 64 * 1024;
/// With a limit, what is passed at a time lasts about so long.
const SLICE: Duration = Duration::from_millis(20);

/// Bytes and when they are due at the other end.
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
}

pub(super) struct Pipe<'a> {
    shared: &'a Shared,
    direction: Direction,
    rules: watch::Receiver<Rules>,
    parcels: VecDeque<Parcel>,
    under_way_bytes: usize,
    /// When the bytes that were passed are paid for.
    paid_at: Instant,
}

impl<'a> Pipe<'a> {
    pub(super) fn new(shared: &'a Shared, direction: Direction) -> Self {
        Self {
            shared,
            direction,
            rules: shared.rules.subscribe(),
            parcels: VecDeque::new(),
            under_way_bytes: 0,
            paid_at: Instant::now(),
        }
    }

    fn passage(&mut self) -> Passage {
        *self.rules.borrow_and_update().of_ref(self.direction)
    }

    /// Passes bytes until one end is gone, and then tells the other.
    pub(super) async fn run(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut buffer = vec![0; READ_BYTES];
        let mut is_open = true;
        loop {
            let passage = self.passage();
            if !is_open && self.parcels.is_empty() {
                break;
            }
            let next = match self.parcels.front() {
                Some(parcel) if !passage.is_stalled => Some(parcel.due.max(self.paid_at)),
                _ => None,
            };
            // a stalled direction takes nothing in: the sender sees a full window, as on a dead wire
            let reads = is_open && !passage.is_stalled && self.under_way_bytes < MAX_UNDER_WAY_BYTES;
            tokio::select! {
                read = from.read(&mut buffer), if reads => match read {
                    Ok(0) | Err(_) => is_open = false,
                    Ok(count) => {
                        self.under_way_bytes += count;
                        let due = Instant::now() + passage.delay;
                        self.parcels.push_back(Parcel { due, bytes: buffer[..count].to_vec() });
                    }
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if self.pass(to, passage).await.is_err() {
                        break;
                    }
                }
                changed = self.rules.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        let _ = to.shutdown().await;
    }

    /// Passes the first parcel, or as much of it as the limit allows.
    async fn pass(&mut self, to: &mut OwnedWriteHalf, passage: Passage) -> std::io::Result<()> {
        let Some(mut parcel) = self.parcels.pop_front() else { return Ok(()) };
        if let Some(limit) = passage.bytes_per_second {
            let most = u128::from(limit) * SLICE.as_millis() / 1000;
            let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
            if parcel.bytes.len() > most {
                let rest = parcel.bytes.split_off(most);
                self.parcels.push_front(Parcel { due: parcel.due, bytes: rest });
            }
            let count = u64::try_from(parcel.bytes.len()).unwrap_or(u64::MAX);
            let cost = Duration::from_nanos(count.saturating_mul(1_000_000_000) / limit);
            self.paid_at = self.paid_at.max(Instant::now()) + cost;
        }
        let count = parcel.bytes.len();
        self.under_way_bytes -= count;
        to.write_all(&parcel.bytes).await?;
        let passed = &self.shared.bytes[self.direction as usize];
        passed.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }
}

impl Rules {
    fn of_ref(&self, direction: Direction) -> &Passage {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}
