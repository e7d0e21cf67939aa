//! The world: clients, functions, stores and what happens to them, in an order that chance decides.

mod archive;
mod functions;
mod promises;
mod readers;
mod trouble;

use std::collections::BTreeSet;

use crate::{
    client::Client,
    mutants::Focus,
    postgres::Postgres,
    redis::Redis,
    rng::Rng,
    rules::Rules,
    types::{CallId, Connection, EventId, Frame, Generation, Position, Record},
    weather::Weather,
    world::functions::Work,
};

pub(crate) struct World {
    rng: Rng,
    rules: Rules,
    weather: Weather,
    clock_ms: u64,
    /// How far the clock of this Redis is behind: another one may have taken over.
    behind_ms: u64,
    redis: Redis,
    snapshots: Vec<Redis>,
    postgres: Postgres,
    postgres_is_away: bool,
    queue: Vec<(u64, Record)>,
    /// Records that came at least once.
    delivered: BTreeSet<u64>,
    queue_refuses: bool,
    calls: Vec<(CallId, Work)>,
    wire: Vec<(Connection, Frame)>,
    clients: Vec<Client>,
    troubles: bool,
    counter: u64,
    /// Everything that was appended, in order.
    appended: Vec<Record>,
    acked: Vec<(EventId, Position)>,
    /// How often a new generation was made because Redis had forgotten.
    pub(crate) forgotten: usize,
    /// A join that was answered in part.
    partial_join: Option<String>,
    trace: Option<Vec<String>>,
}

pub(crate) type Verdict = Result<(), String>;

impl World {
    /// `focus` makes the weather that a test wants.
    pub(crate) fn new(seed: u64, steps: usize, rules: Rules, focus: Focus, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut weather = Weather::draw(&mut rng, steps);
        focus(&mut weather);
        let clients = (0..weather.clients).map(|_| Client::default()).collect();
        Self {
            rng,
            rules,
            weather,
            clock_ms: 1000,
            behind_ms: 0,
            redis: Redis::default(),
            snapshots: Vec::new(),
            postgres: Postgres::default(),
            postgres_is_away: false,
            queue: Vec::new(),
            delivered: BTreeSet::new(),
            queue_refuses: false,
            calls: Vec::new(),
            wire: Vec::new(),
            clients,
            troubles: true,
            counter: 0,
            appended: Vec::new(),
            acked: Vec::new(),
            forgotten: 0,
            partial_join: None,
            trace: traced.then(Vec::new),
        }
    }

    /// What happened, one line a step.
    pub(crate) fn story(&self) -> String {
        format!("{:?}\n{}", self.weather, self.trace.iter().flatten().cloned().collect::<Vec<_>>().join("\n"))
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Runs one schedule, lets everything quiet down, and looks whether the promises were kept.
    pub(crate) fn run(&mut self) -> Verdict {
        for _ in 0..self.weather.steps {
            self.clock_ms += self.rng.below(3) as u64;
            self.step()?;
            if let Some(partial_join) = self.partial_join.take() {
                return Err(partial_join);
            }
            if self.weather.is_calm() {
                self.check_calm()?;
            }
        }
        self.quiet_down()?;
        let log = self.redis.log.iter().flat_map(|log| &log.entries);
        if log.into_iter().any(|(position, entry)| !self.postgres.has(entry.event.id, *position)) {
            // What nobody repeats reaches Postgres when it is trimmed.
            self.note(|| "TRIM".to_owned());
            self.weather.hot = 0;
            for round in 0.. {
                if self.redis.log.as_ref().is_none_or(|log| log.entries.is_empty()) {
                    break;
                }
                if round == 50 {
                    return Err("the log cannot be trimmed".to_owned());
                }
                self.begin_trim();
                self.quiet_down()?;
            }
        }
        self.check_end()
    }

    fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn fresh_generation(&mut self) -> Generation {
        self.fresh() as Generation
    }

    fn redis_clock(&self) -> u64 {
        self.clock_ms - self.behind_ms
    }

    fn step(&mut self) -> Verdict {
        let slow = if self.weather.queue_is_slow { 2 } else { 12 };
        match self.rng.below(100) {
            0..40 => self.step_a_call(),
            40..58 => return self.deliver_a_frame(),
            58..82 => {
                let client = self.rng.below(self.clients.len());
                self.act(client);
            }
            82..88 if self.rng.chance(slow * 8) => self.deliver_records(),
            82..88 => {}
            88..92 if self.weather.trims => self.begin_trim(),
            88..92 => {}
            _ => self.trouble(),
        }
        Ok(())
    }

    /// No more troubles: everything that is under way comes to its end, and clients do what they want.
    fn quiet_down(&mut self) -> Verdict {
        self.troubles = false;
        self.postgres_is_away = false;
        self.queue_refuses = false;
        self.note(|| "QUIET".to_owned());
        if self.weather.redis_goes_back && self.weather.pushes_get_lost {
            // Nobody need have been told of the last forgetting. No socket lives longer than two hours, though.
            (0..self.clients.len()).for_each(|index| self.drop_socket(index));
        }
        let Weather { pushes_get_lost, functions_die, queue_refuses, .. } = self.weather;
        let undisturbed = self.weather.is_steady() && !pushes_get_lost && !functions_die && !queue_refuses;
        for round in 0..60 {
            self.finish_work()?;
            let mut calm = true;
            for index in 0..self.clients.len() {
                self.clients[index].pending = None;
                if self.clients[index].connection.is_none() {
                    self.connect(index);
                }
                let client = &self.clients[index];
                calm &= client.outbox.is_empty()
                    && !client.wants_to_join
                    && !client.wants_history
                    && client.joined;
                for event in client.outbox.clone() {
                    self.send(index, event);
                }
                self.ask(index);
                if round % 2 == 1 {
                    self.ping(index);
                }
            }
            if calm && round % 2 == 0 && undisturbed {
                let truth = self.truth();
                for index in 0..self.clients.len() {
                    self.check_view(index, &truth)?;
                }
            }
            self.finish_work()?;
            let wants = |client: &Client| !client.joined || client.wants_to_join || client.wants_history;
            if calm && round % 2 == 1 && !self.clients.iter().any(wants) {
                return Ok(());
            }
            self.clock_ms += 20;
        }
        Err("it does not come to rest".to_owned())
    }

    fn finish_work(&mut self) -> Verdict {
        let mut patience = 30_000;
        while !(self.calls.is_empty() && self.wire.is_empty() && self.queue.is_empty()) {
            patience -= 1;
            if patience == 0 {
                return Err("work does not come to its end".to_owned());
            }
            self.clock_ms += 1;
            match self.rng.below(3) {
                0 => self.step_a_call(),
                1 => self.deliver_a_frame()?,
                _ => self.deliver_records(),
            }
        }
        Ok(())
    }
}
