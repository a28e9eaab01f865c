//! Whether intake may pull. Closed while a pipeline has stopped: what cannot be written is not asked for. And closed for
//! all pipelines together while the connection is made anew: what is on its way through a connection when that is
//! closed is lost, and comes again only after `ack_wait`.

use std::sync::Arc;

use tokio::sync::watch;

/// What the gates of a process have in common. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pause {
    announced: Arc<watch::Sender<usize>>,
    paused: Arc<watch::Sender<usize>>,
    /// Those that began before a pause was announced, and may last.
    long_pulls: Arc<watch::Sender<usize>>,
    open_pulls: Arc<watch::Sender<usize>>,
}

impl Default for Pause {
    fn default() -> Self {
        let none = || Arc::new(watch::Sender::new(0));
        Self { announced: none(), paused: none(), long_pulls: none(), open_pulls: none() }
    }
}

impl Pause {
    /// Pulls that begin from now on until the guard is dropped are short, so that a pause is.
    pub fn announce(&self) -> Counted {
        Counted::of(&self.announced)
    }

    /// Resolves when no pull is open but short ones.
    pub async fn short(&self) {
        none(&self.long_pulls).await;
    }

    /// Lets no new pull begin until the guard is dropped.
    pub fn begin(&self) -> Counted {
        Counted::of(&self.paused)
    }

    /// Resolves when no pull is open.
    pub async fn quiet(&self) {
        none(&self.open_pulls).await;
    }
}

/// Open as long as nobody holds a [`Counted`] of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    closed: Arc<watch::Sender<usize>>,
    pause: Pause,
}

impl Default for Gate {
    fn default() -> Self {
        Self::below(&Pause::default())
    }
}

impl Gate {
    /// A gate that lets nobody through during a pause either.
    pub fn below(pause: &Pause) -> Self {
        Self { closed: Arc::new(watch::Sender::new(0)), pause: pause.clone() }
    }

    /// Keeps the gate closed until the guard is dropped.
    pub fn close(&self) -> Counted {
        Counted::of(&self.closed)
    }

    /// Whether nobody keeps it closed.
    pub fn is_open(&self) -> bool {
        *self.closed.borrow() == 0
    }

    /// Resolves when it is open.
    pub async fn opened(&self) {
        none(&self.closed).await;
    }

    /// Begins a pull, which is open until the guard is dropped. Waits for the end of a pause.
    pub async fn enter(&self) -> Open {
        let pause = &self.pause;
        loop {
            none(&pause.paused).await;
            let (open, long) = (Counted::of(&pause.open_pulls), Counted::of(&pause.long_pulls));
            // a pause that began in between does not wait for a pull that it has not seen
            if *pause.paused.borrow() == 0 {
                let is_short = *pause.announced.borrow() > 0;
                return Open { is_short, _open: open, _long: (!is_short).then_some(long) };
            }
        }
    }
}

/// A pull that is open until this is dropped.
#[derive(Debug)]
pub struct Open {
    /// Whether it is to end soon.
    pub is_short: bool,
    _open: Counted,
    _long: Option<Counted>,
}

/// The sender lives as long as who waits, so the wait cannot fail.
async fn none(count: &watch::Sender<usize>) {
    let _ = count.subscribe().wait_for(|count| *count == 0).await;
}

/// Counts in one of the numbers above for as long as it is held.
#[derive(Debug)]
pub struct Counted {
    count: Arc<watch::Sender<usize>>,
}

impl Counted {
    fn of(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self { count: Arc::clone(count) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_when_the_last_guard_is_dropped() {
        let gate = Gate::default();
        let (one, other) = (gate.close(), gate.close());
        drop(one);
        assert!(!gate.is_open());
        let opened = tokio::spawn({
            let gate = gate.clone();
            async move { gate.opened().await }
        });
        drop(other);
        opened.await.expect("it opens");
        assert!(gate.is_open());
    }

    #[tokio::test]
    async fn pulls_that_begin_when_a_pause_is_announced_are_short() {
        use futures_util::FutureExt as _;
        let pause = Pause::default();
        let gate = Gate::below(&pause);
        let long = gate.enter().await;
        let announced = pause.announce();
        let short = gate.enter().now_or_never().expect("nothing is paused");
        assert_eq!((long.is_short, short.is_short), (false, true));
        assert!(pause.short().now_or_never().is_none(), "a long one is open");
        drop(long);
        pause.short().now_or_never().expect("only a short one is open");
        assert!(pause.quiet().now_or_never().is_none(), "a short one is open");
        drop((short, announced));
        assert!(!gate.enter().await.is_short, "it is over");
    }

    #[tokio::test]
    async fn a_pause_waits_for_the_pulls_that_are_open_and_lets_none_begin() {
        use futures_util::FutureExt as _;
        let pause = Pause::default();
        let (one, other) = (Gate::below(&pause), Gate::below(&pause));
        let open = one.enter().await;
        let paused = pause.begin();
        assert!(pause.quiet().now_or_never().is_none(), "a pull is open");
        assert!(other.enter().now_or_never().is_none(), "it is paused");
        drop(open);
        pause.quiet().now_or_never().expect("no pull is open");
        drop(paused);
        let _open = other.enter().now_or_never().expect("it is over");
        assert!(pause.quiet().now_or_never().is_none(), "a pull is open");
    }
}
