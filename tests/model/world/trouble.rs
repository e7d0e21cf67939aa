//! What goes wrong.

use crate::{
    redis::Redis,
    types::DAY_MS,
    world::{World, functions::Work},
};

type Trouble = fn(&mut World);

impl World {
    /// One of the troubles that the weather has.
    pub(super) fn trouble(&mut self) {
        let weather = &self.weather;
        let all: [(bool, Trouble); 9] = [
            (weather.functions_die, Self::kill_a_function),
            (weather.redis_loses_all, Self::lose_redis),
            (weather.redis_goes_back, Self::save_redis),
            (weather.redis_goes_back, Self::go_back),
            (weather.redis_evicts, Self::evict),
            (weather.expires, Self::expire),
            (weather.postgres_goes, Self::stop_or_start_postgres),
            (weather.queue_refuses, Self::stop_or_start_queue),
            (weather.whole_days_pass, Self::pass_a_day),
        ];
        let possible: Vec<_> = all.into_iter().filter(|(happens, _)| *happens).collect();
        if !possible.is_empty() && self.rng.chance(self.weather.troubles_percent) {
            possible[self.rng.below(possible.len())].1(self);
        }
    }

    fn kill_a_function(&mut self) {
        if !self.calls.is_empty() {
            let index = self.rng.below(self.calls.len());
            let (id, work) = self.calls.swap_remove(index);
            self.note(|| format!("KILLED {id} {work:?}"));
        }
    }

    fn lose_redis(&mut self) {
        self.note(|| "REDIS LOST".to_owned());
        self.redis = Redis::default();
        self.another_clock();
    }

    fn save_redis(&mut self) {
        self.snapshots.push(self.redis.clone());
        if self.snapshots.len() > 3 {
            self.snapshots.remove(0);
        }
    }

    fn go_back(&mut self) {
        if !self.snapshots.is_empty() {
            let index = self.rng.below(self.snapshots.len());
            self.redis = self.snapshots[index].clone();
            self.snapshots.truncate(index + 1);
            let state = format!("REDIS WENT BACK to {:?} {:?}", self.redis.head, self.redis.log);
            self.note(|| state);
            self.another_clock();
        }
    }

    fn stop_or_start_postgres(&mut self) {
        self.postgres_is_away = !self.postgres_is_away;
        let away = self.postgres_is_away;
        self.note(|| format!("POSTGRES AWAY {away}"));
    }

    fn stop_or_start_queue(&mut self) {
        self.queue_refuses = !self.queue_refuses;
        let refuses = self.queue_refuses;
        self.note(|| format!("QUEUE REFUSES {refuses}"));
    }

    fn another_clock(&mut self) {
        if self.weather.clock_goes_back {
            self.behind_ms = self.rng.below(40) as u64;
            let behind = self.behind_ms;
            self.note(|| format!("  its clock is {behind} ms behind"));
        }
    }

    fn evict(&mut self) {
        // Never `sent`: see the head of `main.rs`.
        match self.rng.below(3) {
            0 => self.redis.head = None,
            1 => self.redis.log = None,
            _ => self.redis.subscribers.clear(),
        }
        let state = format!("EVICTED, left {:?}", self.redis);
        self.note(|| state);
    }

    fn pass_a_day(&mut self) {
        let sending =
            self.calls.iter().any(|(_, work)| matches!(work, Work::Send { .. } | Work::Deliver { .. }));
        if !sending && self.clients.iter().all(|client| client.outbox.is_empty()) {
            self.clock_ms += DAY_MS + 1000;
            self.snapshots.clear();
            self.note(|| "A DAY PASSED".to_owned());
        }
    }

    /// Nobody came for a month: what was queued has reached Postgres, no socket is left, no function at work.
    fn expire(&mut self) {
        if self.queue.is_empty() && self.calls.is_empty() {
            (0..self.clients.len()).for_each(|index| self.drop_socket(index));
            self.redis.expire();
            self.note(|| "EXPIRED".to_owned());
        }
    }
}
