//! What goes wrong in a schedule.

use crate::rng::Rng;

/// Which troubles a schedule has, and how large things are. Few troubles at a time find more than all at once.
#[derive(Debug)]
pub(crate) struct Weather {
    pub(crate) clients: usize,
    /// How many are written at most.
    pub(crate) events: usize,
    pub(crate) steps: usize,
    /// Events in a page.
    pub(crate) limit: usize,
    /// Entries that are not trimmed.
    pub(crate) hot: usize,
    /// How often something goes wrong.
    pub(crate) troubles_percent: usize,
    pub(crate) functions_die: bool,
    pub(crate) pushes_get_lost: bool,
    pub(crate) sockets_drop: bool,
    pub(crate) postgres_goes: bool,
    pub(crate) queue_refuses: bool,
    pub(crate) queue_repeats: bool,
    pub(crate) queue_is_slow: bool,
    pub(crate) redis_loses_all: bool,
    pub(crate) redis_goes_back: bool,
    /// It loses single keys.
    pub(crate) redis_evicts: bool,
    pub(crate) clock_goes_back: bool,
    pub(crate) trims: bool,
    /// Trimmed is also what waits in the queue, or may be sent again.
    pub(crate) queue_is_long: bool,
    /// An idle room leaves Redis.
    pub(crate) expires: bool,
    pub(crate) edits: bool,
    pub(crate) scrolls: bool,
    /// A client does not repeat what was not acked.
    pub(crate) gives_up: bool,
    pub(crate) reuses_ids: bool,
    pub(crate) whole_days_pass: bool,
}

impl Weather {
    pub(crate) fn draw(rng: &mut Rng, steps: usize) -> Self {
        let redis_is_well = rng.chance(30);
        let mut redis = |percent| rng.chance(percent) && !redis_is_well;
        let (redis_loses_all, redis_goes_back, redis_evicts) = (redis(50), redis(50), redis(25));
        let (clock_goes_back, reuses_ids) = (redis(40), redis(15));
        Self {
            clients: 2 + rng.below(2),
            events: 2 + rng.below(9),
            steps,
            limit: 1 + rng.below(4),
            hot: rng.below(5),
            troubles_percent: [15, 40, 100][rng.below(3)],
            functions_die: rng.chance(60),
            pushes_get_lost: rng.chance(50),
            sockets_drop: rng.chance(60),
            postgres_goes: rng.chance(40),
            queue_refuses: rng.chance(30),
            queue_repeats: rng.chance(30),
            queue_is_slow: rng.chance(50),
            redis_loses_all,
            redis_goes_back,
            redis_evicts,
            clock_goes_back,
            trims: rng.chance(60),
            queue_is_long: rng.chance(60),
            expires: rng.chance(20),
            edits: rng.chance(50),
            scrolls: rng.chance(30),
            gives_up: rng.chance(20),
            reuses_ids,
            whole_days_pass: reuses_ids,
        }
    }

    /// No troubles at all.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            functions_die: false,
            pushes_get_lost: false,
            sockets_drop: false,
            postgres_goes: false,
            queue_refuses: false,
            queue_repeats: false,
            queue_is_slow: false,
            redis_loses_all: false,
            redis_goes_back: false,
            redis_evicts: false,
            clock_goes_back: false,
            trims: false,
            queue_is_long: false,
            expires: false,
            edits: false,
            scrolls: false,
            gives_up: false,
            reuses_ids: false,
            whole_days_pass: false,
            ..*self
        };
    }

    /// Redis forgets nothing, and no room leaves it.
    pub(crate) fn is_calm(&self) -> bool {
        !self.may_forget() && !self.expires
    }

    /// No reader has cause to read again. What was trimmed and then comes out of the queue is taken for forgotten: it
    /// harms nobody, and is rare.
    pub(crate) fn is_steady(&self) -> bool {
        self.is_calm() && !(self.trims && self.queue_is_long)
    }

    pub(crate) fn may_forget(&self) -> bool {
        self.redis_loses_all || self.redis_goes_back || self.redis_evicts || self.reuses_ids
    }
}
