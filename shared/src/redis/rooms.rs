//! The rooms' logs, and who gets what is written there.

use redis::{FromRedisValue, Value};

use super::{CONNECTION_LIFETIME_SECONDS, Call, MOST_ARGUMENTS, Redis, WIDTH, keys};
use crate::{
    domain::{
        messages::{ConnectionId, Generation, Position, REPEAT_WINDOW},
        rooms::RoomId,
        users::UserId,
    },
    error::{Error, Result},
    identity::Identity,
    postgres::Known,
    protocol::{
        Author,
        frames::{Content, Event, EventBody, LARGEST_REPLY_BYTES},
    },
};
use futures::{StreamExt, TryStreamExt, stream};

/// How many bytes of bodies a page over HTTP holds at most: whoever wants more asks for the next page, and Redis serves
/// others in between.
const LARGEST_PAGE_BYTES: usize = 256 * 1024;
/// For how long the head of a removed room stays, so that a join that was under way finds out: no function runs longer.
const ENDED_SECONDS: u64 = 60 * 60;
/// For how long an event is known that its client cannot repeat: only our own second try at a lost answer does.
const RETRY_SECONDS: u64 = 60;
/// How many users who are in a room are named.
const MOST_NAMED: usize = 200;
/// How often a room is looked through for subscriptions whose end nobody told.
const SWEEP_PAUSE_SECONDS: u64 = 10 * 60;

/// From where a connection wants to read when it joins.
#[derive(Debug, Clone)]
pub enum Resume {
    /// The newest events.
    Newest,
    /// Everything after what it has.
    After {
        /// The last position that it has.
        position: Position,
        /// The generation that the position is of, if it told.
        generation: Option<Generation>,
    },
}

/// What became of a join.
#[derive(Debug)]
pub enum JoinOutcome {
    /// The connection is subscribed.
    Joined(Joined),
    /// Members were removed meanwhile: check the membership again, then join again.
    Again,
    /// The room is no more.
    Ended,
}

/// What Redis knows of a room's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head<G = Generation> {
    /// The life of the log.
    pub generation: G,
    /// The newest position.
    pub last: Option<Position>,
    /// The log is whole after this position. Up to it, history is the log and Postgres together.
    pub since: Position,
    /// How many generations the log has had.
    pub generations: u64,
}

impl Head {
    /// Whether nobody has asked Postgres yet what there is, or Redis has forgotten something that Postgres knows.
    pub fn disagrees_with(&self, known: &Known) -> bool {
        self.since == Position::END
            || self.last.unwrap_or(Position::BEGINNING) < known.newest
            || self.generations < known.generations
    }
}

/// What a connection finds when it joins.
#[derive(Debug)]
pub struct Joined {
    /// What Redis knows of the room's log.
    pub head: Head,
    /// The events do not follow on from what the connection has.
    pub reset: bool,
    /// Oldest first.
    pub events: Vec<Event>,
    /// There are more: newer ones after a resume, older ones otherwise.
    pub more: bool,
    /// How many users are in the room.
    pub online: u64,
    /// Redis was found to have forgotten something: every subscriber must be told to read again.
    pub forgotten: bool,
}

/// An event in the log.
#[derive(Debug)]
pub struct Posted {
    /// Its place.
    pub position: Position,
    /// The place before it.
    pub previous: Option<Position>,
    /// With a repeat: what was logged the first time, unless it is gone from the log since.
    pub repeated: Option<Option<EventBody>>,
    /// The version of the subscribers.
    pub version: String,
    /// Who gets it, if that is not what the caller knows.
    pub subscribers: SubscriberChange,
    /// The life of the room's log.
    pub generation: Generation,
    /// Redis was found to have forgotten something: every subscriber must be told to read again.
    pub forgotten: bool,
}

/// Whether the subscribers that a caller holds are current.
#[derive(Debug)]
pub enum SubscriberChange {
    /// They are.
    None,
    /// They are not; these are.
    All(Vec<Subscriber>),
}

/// A connection that gets what is written in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose it is.
    pub user: UserId,
}

/// Where a page of history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// At the newest event, backwards.
    Newest,
    /// Before this position, backwards.
    Before(Position),
    /// After this position, forwards.
    After(Position),
}

impl Cursor {
    /// What is read backwards from here is before this position.
    pub fn before(self) -> Position {
        match self {
            Self::Newest | Self::After(_) => Position::END,
            Self::Before(position) => position,
        }
    }
}

/// A page of a log, oldest first.
#[derive(Debug)]
pub struct LogPage {
    /// What Redis knows of the log; none if it knows nothing, or what it knows is not true of the log.
    pub head: Option<Head>,
    /// The events.
    pub events: Vec<Event>,
    /// There are older ones.
    pub older: bool,
    /// There are newer ones.
    pub newer: bool,
}

/// What may be new to a connection in a room that it has joined.
#[derive(Debug)]
pub struct News {
    /// The newest position.
    pub last: Option<Position>,
    /// The life of the log.
    pub generation: Generation,
}

/// What goes on in a room.
#[derive(Debug)]
pub struct RoomSummary {
    /// The newest message.
    pub last_message: Option<Event>,
    /// How many users are in the room.
    pub online: u64,
}

type Entries = Vec<(String, Vec<String>)>;

impl Redis {
    /// The version of the room's memberships: to be read before Postgres is asked, and handed to `join`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn access_version(&self, room: &RoomId) -> Result<String> {
        let mut command = redis::cmd("HGET");
        command.arg(keys::head(room)).arg("access");
        let version: Option<String> = self.link.query(&command, "reading a room's access version").await?;
        Ok(version.unwrap_or_default())
    }

    /// Subscribes a connection and reads what it missed, in one step. `access` is the version under which a membership
    /// was checked; none where no membership is needed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn join(
        &self,
        room: &RoomId,
        connection: &ConnectionId,
        identity: &Identity,
        access: Option<&str>,
        resume: &Resume,
        limit: usize,
    ) -> Result<JoinOutcome> {
        const OPERATION: &str = "joining a room";
        self.note_room(connection, room).await?;
        let (mode, position, generation) = match resume {
            Resume::Newest => ("newest", String::new(), ""),
            Resume::After { position, generation } => {
                ("after", position.to_string(), generation.as_ref().map_or("", Generation::as_str))
            }
        };
        let keys = [keys::head(room), keys::log(room), keys::subscribers(room), keys::online(room)];
        let call = Call::of(&self.scripts.join, keys)
            .arg(connection.as_str())
            .arg(identity.user.to_string())
            .arg(&identity.name)
            .arg(fresh()?)
            .arg(fresh()?)
            .arg(access.unwrap_or("*"))
            .arg(mode)
            .arg(position)
            .arg(generation)
            .arg(limit)
            .arg(LARGEST_REPLY_BYTES)
            .arg(CONNECTION_LIFETIME_SECONDS)
            .arg(SWEEP_PAUSE_SECONDS)
            .arg(self.room_lifetime_seconds);
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        let outcome: String = answer.next()?;
        if outcome != "joined" {
            return Ok(if outcome == "again" { JoinOutcome::Again } else { JoinOutcome::Ended });
        }
        Ok(JoinOutcome::Joined(Joined {
            head: answer.head(Generation::from_store)?,
            reset: answer.flag()?,
            events: answer.events(room)?,
            more: answer.flag()?,
            online: answer.next()?,
            forgotten: answer.flag()?,
        }))
    }

    /// Appends an event to a room's log, once: a repeat gets the place that the first had. `known` is the version of
    /// the subscribers that the caller holds.
    ///
    /// # Errors
    /// [`Error::NotJoined`] if the connection has not joined the room, or Redis has forgotten that it had;
    /// [`Error::Unavailable`] if Redis is away: the event may be in the log or not, and the caller may repeat.
    pub async fn post(
        &self,
        room: &RoomId,
        connection: &ConnectionId,
        body: &EventBody,
        known: Option<&str>,
    ) -> Result<Posted> {
        const OPERATION: &str = "posting an event";
        let repeatable = !matches!(body.content, Content::Message { id: None, .. });
        let known_for = if repeatable { REPEAT_WINDOW.as_secs() } else { RETRY_SECONDS };
        let json = serde_json::to_string(body).map_err(|cause| Error::internal(OPERATION, cause))?;
        let keys = [
            keys::head(room),
            keys::log(room),
            keys::subscribers(room),
            keys::online(room),
            keys::sent(room, body.event),
        ];
        let call = Call::of(&self.scripts.post, keys)
            .arg(connection.as_str())
            .arg(json)
            .arg(fresh()?)
            .arg(known.unwrap_or_default())
            .arg(known_for)
            .arg(self.room_lifetime_seconds);
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        let outcome: String = answer.next()?;
        if outcome == "not_joined" {
            return Err(Error::NotJoined);
        }
        let position = answer.required_position()?;
        let previous = answer.position()?;
        let first: Option<String> = answer.next()?;
        let repeated = match outcome.as_str() {
            "repeated" => Some(first.map(|body| parse_body(&body, OPERATION)).transpose()?),
            _ => None,
        };
        Ok(Posted {
            position,
            previous,
            repeated,
            version: answer.next()?,
            subscribers: answer.subscribers()?,
            generation: Generation::from_store(answer.next()?),
            forgotten: answer.flag()?,
        })
    }

    /// Who gets what is written in a room.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn subscribers(&self, room: &RoomId) -> Result<Vec<Subscriber>> {
        const OPERATION: &str = "reading a room's subscribers";
        let mut command = redis::cmd("HGETALL");
        command.arg(keys::subscribers(room));
        let flat: Vec<(String, String)> = self.link.query(&command, OPERATION).await?;
        flat.iter()
            .map(|(connection, subscriber)| parse_subscriber(connection, subscriber, OPERATION))
            .collect()
    }

    /// Ends the subscription of one connection. Leaving a room that it has not joined is no error. The connection's own
    /// list keeps the room: a join that comes at the same moment may be about to subscribe it again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn leave(&self, room: &RoomId, connection: &ConnectionId) -> Result<()> {
        self.unsubscribe(room, std::slice::from_ref(connection)).await
    }

    // Takes the room along: a closure that is called with borrows makes futures that are not known to be `Send`.
    pub(super) async fn leave_owned(&self, room: RoomId, connection: &ConnectionId) -> Result<()> {
        self.leave(&room, connection).await
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn unsubscribe(&self, room: &RoomId, connections: &[ConnectionId]) -> Result<()> {
        let keys = [keys::head(room), keys::subscribers(room), keys::online(room)];
        for connections in connections.chunks(MOST_ARGUMENTS) {
            let connections: Vec<_> = connections.iter().map(ConnectionId::as_str).collect();
            let call = Call::of(&self.scripts.leave, keys.clone()).arg(fresh()?).arg(connections);
            let _: u64 = self.run(call, "leaving a room").await?;
        }
        Ok(())
    }

    /// Ends all subscriptions of a user who is a member no more, and makes a join that is under way check again. To be
    /// called after Postgres has forgotten the member; safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn expel(&self, room: &RoomId, user: UserId) -> Result<()> {
        let keys = [keys::head(room), keys::subscribers(room), keys::online(room)];
        let call = Call::of(&self.scripts.expel, keys)
            .arg(user.to_string())
            .arg(fresh()?)
            .arg(self.room_lifetime_seconds);
        let _: u64 = self.run(call, "expelling a member").await?;
        Ok(())
    }

    /// Removes a room. To be called after Postgres has; safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn end_room(&self, room: &RoomId) -> Result<()> {
        let keys = [keys::head(room), keys::log(room), keys::subscribers(room), keys::online(room)];
        let call = Call::of(&self.scripts.end_room, keys).arg(ENDED_SECONDS);
        let _: u64 = self.run(call, "ending a room").await?;
        Ok(())
    }

    /// Notes that the subscribers of a room were told of a generation, so that nobody tells them again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn note_told(&self, room: &RoomId, generation: &Generation) -> Result<()> {
        let call = Call::of(&self.scripts.told, [keys::head(room)]).arg(generation.as_str());
        let _: u64 = self.run(call, "noting a resync").await?;
        Ok(())
    }

    /// Reads a page of a log for somebody whose right to read was checked. A position of the future or of another
    /// generation gives what is there, measured by it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn page(&self, room: &RoomId, cursor: Cursor, limit: usize) -> Result<LogPage> {
        self.read_page(room, cursor, limit, LARGEST_PAGE_BYTES, "").await
    }

    /// Reads a page of a log for a connection that has joined the room.
    ///
    /// # Errors
    /// [`Error::NotJoined`] if it has not, or Redis has forgotten the room; [`Error::Unavailable`] if Redis is away.
    pub async fn page_for(
        &self,
        connection: &ConnectionId,
        room: &RoomId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<LogPage> {
        self.read_page(room, cursor, limit, LARGEST_REPLY_BYTES, connection.as_str()).await
    }

    async fn read_page(
        &self,
        room: &RoomId,
        cursor: Cursor,
        limit: usize,
        bytes: usize,
        connection: &str,
    ) -> Result<LogPage> {
        const OPERATION: &str = "reading a room's history";
        let (mode, position) = match cursor {
            Cursor::Newest => ("newest", String::new()),
            Cursor::Before(position) => ("before", position.to_string()),
            Cursor::After(position) => ("after", position.to_string()),
        };
        let keys = [keys::head(room), keys::log(room), keys::subscribers(room)];
        let call =
            Call::of(&self.scripts.page, keys).arg(mode).arg(position).arg(limit).arg(bytes).arg(connection);
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        if answer.next::<String>()? == "not_joined" {
            return Err(Error::NotJoined);
        }
        let head = answer.head(|generation: Option<String>| generation.map(Generation::from_store))?;
        let Head { last, since, generations, .. } = head;
        Ok(LogPage {
            head: head.generation.map(|generation| Head { generation, last, since, generations }),
            events: answer.events(room)?,
            older: answer.flag()?,
            newer: answer.flag()?,
        })
    }

    /// What there is to know of each room that the connection has joined; none for a room that it has not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn peek(&self, connection: &ConnectionId, rooms: &[RoomId]) -> Result<Vec<Option<News>>> {
        let rooms = stream::iter(rooms.to_vec());
        rooms.map(|room| self.peek_at(connection, room)).buffered(WIDTH).try_collect().await
    }

    async fn peek_at(&self, connection: &ConnectionId, room: RoomId) -> Result<Option<News>> {
        const OPERATION: &str = "looking for news";
        let call = Call::of(&self.scripts.peek, [keys::head(&room), keys::subscribers(&room)]);
        let answer: Vec<Value> = self.run(call.arg(connection.as_str()), OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        let joined = answer.flag()?;
        let last = answer.position()?;
        let generation: Option<String> = answer.next()?;
        let generation = generation.filter(|_| joined).map(Generation::from_store);
        Ok(generation.map(|generation| News { last, generation }))
    }

    /// What goes on in each of the rooms.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn room_summaries(&self, rooms: &[RoomId]) -> Result<Vec<RoomSummary>> {
        stream::iter(rooms.to_vec()).map(|room| self.summarize(room)).buffered(WIDTH).try_collect().await
    }

    async fn summarize(&self, room: RoomId) -> Result<RoomSummary> {
        const OPERATION: &str = "reading what goes on in a room";
        let call = Call::of(&self.scripts.summary, [keys::log(&room), keys::online(&room)]);
        let answer: Vec<Value> = self.run(call, OPERATION).await?;
        let mut answer = Answer::new(answer, OPERATION);
        Ok(RoomSummary { last_message: answer.events(&room)?.pop(), online: answer.next()? })
    }

    /// Who is in a room: all of them by name, or any 200 if there are more; and how many in all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis is away.
    pub async fn online(&self, room: &RoomId) -> Result<(Vec<Author>, u64)> {
        const OPERATION: &str = "reading who is in a room";
        let keys = [keys::head(room), keys::subscribers(room), keys::online(room)];
        let call = Call::of(&self.scripts.online, keys)
            .arg(fresh()?)
            .arg(CONNECTION_LIFETIME_SECONDS)
            .arg(SWEEP_PAUSE_SECONDS)
            .arg(MOST_NAMED);
        let (flat, count): (Vec<(String, String)>, u64) = self.run(call, OPERATION).await?;
        let users = flat.into_iter().map(|(user, online)| {
            let id = UserId::parse(&user).map_err(|cause| Error::internal(OPERATION, cause))?;
            let (_, name) = online.split_once(' ').ok_or_else(|| Error::internal(OPERATION, "no name"))?;
            Ok(Author { id, name: name.to_owned() })
        });
        let mut users = users.collect::<Result<Vec<_>>>()?;
        users.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        Ok((users, count))
    }
}

/// 64 random bits in hexadecimal: a new generation, or a new version, which so never repeats.
pub(super) fn fresh() -> Result<String> {
    let bits = getrandom::u64().map_err(|cause| Error::internal("making a version", cause))?;
    Ok(Generation::from_random(bits).as_str().to_owned())
}

pub(super) fn parse_body(body: &str, operation: &'static str) -> Result<EventBody> {
    serde_json::from_str(body).map_err(|cause| Error::internal(operation, cause))
}

fn parse_subscriber(connection: &str, subscriber: &str, operation: &'static str) -> Result<Subscriber> {
    let user = subscriber.split(' ').next().unwrap_or_default();
    let user = UserId::parse(user).map_err(|cause| Error::internal(operation, cause))?;
    Ok(Subscriber { connection: ConnectionId::new(connection), user })
}

/// The parts of a script's answer, one after the other.
pub(super) struct Answer {
    parts: std::vec::IntoIter<Value>,
    operation: &'static str,
}

impl Answer {
    pub(super) fn new(parts: Vec<Value>, operation: &'static str) -> Self {
        Self { parts: parts.into_iter(), operation }
    }

    pub(super) fn next<T: FromRedisValue>(&mut self) -> Result<T> {
        let part =
            self.parts.next().ok_or_else(|| Error::internal(self.operation, "the answer is too short"))?;
        T::from_redis_value(part).map_err(|cause| Error::internal(self.operation, cause))
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        Ok(self.next::<u8>()? == 1)
    }

    pub(super) fn position(&mut self) -> Result<Option<Position>> {
        let raw: Option<String> = self.next()?;
        let position = raw.filter(|raw| !raw.is_empty()).map(|raw| Position::parse(&raw)).transpose();
        position.map_err(|cause| Error::internal(self.operation, cause))
    }

    pub(super) fn required_position(&mut self) -> Result<Position> {
        self.position()?.ok_or_else(|| Error::internal(self.operation, "a position is missing"))
    }

    /// A head, whose generation `read` makes of what stands in its place.
    fn head<T: FromRedisValue, G>(&mut self, read: impl FnOnce(T) -> G) -> Result<Head<G>> {
        Ok(Head {
            generation: read(self.next()?),
            last: self.position()?,
            since: self.required_position()?,
            generations: self.next()?,
        })
    }

    /// The events that this release can read. While a newer one is being deployed, or after it was rolled back, there
    /// may be others; they are left out, rather than making the whole room unreadable.
    fn events(&mut self, room: &RoomId) -> Result<Vec<Event>> {
        let entries: Entries = self.next()?;
        let read = |(position, fields): &(String, Vec<String>)| match self.event(room, position, fields) {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::error!(room.id = %room, position, cause = error.cause_chain(), "an event cannot be read");
                None
            }
        };
        Ok(entries.iter().filter_map(read).collect())
    }

    fn event(&self, room: &RoomId, position: &str, fields: &[String]) -> Result<Event> {
        let field = |name: &str| {
            let pair = fields.chunks_exact(2).find(|pair| pair[0] == name);
            pair.map(|pair| pair[1].as_str())
                .ok_or_else(|| Error::internal(self.operation, "a field is missing"))
        };
        let parse = |raw: &str| Position::parse(raw).map_err(|cause| Error::internal(self.operation, cause));
        let previous = Some(field("p")?).filter(|previous| !previous.is_empty()).map(parse).transpose()?;
        let body = parse_body(field("e")?, self.operation)?;
        Ok(Event::new(room.clone(), parse(position)?, previous, body))
    }

    fn subscribers(&mut self) -> Result<SubscriberChange> {
        let flat: Option<Vec<String>> = self.next()?;
        let Some(flat) = flat else { return Ok(SubscriberChange::None) };
        let subscribers =
            flat.chunks_exact(2).map(|pair| parse_subscriber(&pair[0], &pair[1], self.operation));
        Ok(SubscriberChange::All(subscribers.collect::<Result<_>>()?))
    }
}
