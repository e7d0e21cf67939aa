//! The durable copy of what was written, one row an event.
//!
//! Only the archive writes here, in bulk and in whatever order the queue gives. A room's row is locked meanwhile, so what
//! is stored of one room is stored by one call after the other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Postgres, link::Stopped};
use crate::{
    domain::{
        messages::{ClientId, EventId, Position, REPEAT_WINDOW, Text},
        rooms::RoomId,
        users::UserId,
    },
    error::{Error, Result},
    protocol::{
        Author, Timestamp,
        frames::{Content, Event, EventBody, EventKind, Now},
        queue::ArchiveRecord,
    },
};

/// After so long nobody looks for a stored event in the log any more: more than a call of the archive can last, and the
/// time after which the records of one that died are delivered again. What is taken out of the log sooner would be
/// missed.
pub const SETTLED_AFTER: Duration = Duration::from_secs(120);

/// What Postgres knows of a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The largest position that is stored.
    pub newest: Position,
    /// How many generations the log has had.
    pub generations: u64,
}

/// An event that is to be stored.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The event.
    pub record: ArchiveRecord,
    /// A call before this one may have stored it and died before it looked whether readers can find it.
    pub again: bool,
}

/// What became of the events of one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRoom {
    /// What Postgres knows of the room's log now.
    pub known: Known,
    /// Up to here the log had lacked something when these events were appended to it.
    pub lost: Option<Position>,
    /// The events, and others that they changed.
    pub events: Vec<Settlement>,
}

/// An event as Postgres has it, for comparison with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The name that the log knows it by.
    pub logged: EventId,
    /// Its name.
    pub stored: EventId,
    /// Its place.
    pub position: Position,
    /// Where the log may have it.
    pub places: Vec<Position>,
    /// Its text is deleted.
    pub gone: bool,
    /// Nobody has made sure yet that readers find it.
    pub unsettled: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Stored {
    /// By room.
    pub rooms: BTreeMap<RoomId, StoredRoom>,
    /// Indexes of the events that can never be stored, since there is no such room.
    pub homeless: Vec<usize>,
}

/// A stretch of a room's history that Postgres has: as many events as were asked for, and all others at the same place
/// as the last of them.
#[derive(Debug)]
pub struct Stretch {
    /// In the order in which they were asked for.
    pub events: Vec<Event>,
    /// There may be others beyond them.
    pub more: bool,
}

impl Postgres {
    /// What Postgres knows of a room's log.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such room.
    pub async fn known(&self, room: &RoomId) -> Result<Known> {
        self.link
            .run("asking what is known of a room's log", async |connection| {
                let known = known(connection, &[room.as_str().to_owned()]).await?;
                known.into_values().next().ok_or_else(|| Error::NotFound("room").into())
            })
            .await
    }

    /// Remembers that a generation has begun, for Redis may forget it.
    pub async fn remember(&self, room: &RoomId, generations: u64) -> Result<()> {
        let generations = i64::try_from(generations).unwrap_or(i64::MAX);
        self.link
            .run("remembering a generation", async |connection| {
                sqlx::query!(
                    "update rooms set generations = $2 where id = $1 and generations < $2",
                    room.as_str(),
                    generations,
                )
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    /// Stores events, each once: of the same event at two places the smaller place stays; an id that was used again after
    /// [`REPEAT_WINDOW`] is another message. An event whose target is not there yet waits as a row like any other.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Postgres is away: all of it is stored then, or nothing.
    pub async fn store(&self, arrivals: &[Arrival]) -> Result<Stored> {
        self.link
            .run_whole("storing events", async |connection| {
                let mut batch = Batch::begin(connection, arrivals).await?;
                batch.place();
                batch.find_deleted(connection).await?;
                insert(connection, &batch.inserts()).await?;
                move_rows(connection, &batch.moves()).await?;
                let deleted = delete_texts(connection, &batch.deletions()).await?;
                let lost = batch.lost_by_chain(connection).await?;
                let rooms = batch.rooms.iter().map(|room| room.as_str().to_owned()).collect::<Vec<_>>();
                let known = known(connection, &rooms).await?;
                Ok(batch.finish(known, &lost, deleted))
            })
            .await
    }

    /// Who of these users may not hear of a room: all of them once it has ended, nobody of a public one.
    pub async fn outsiders(&self, room: &RoomId, users: &[UserId]) -> Result<Vec<UserId>> {
        let users: Vec<Uuid> = users.iter().map(|user| user.as_uuid()).collect();
        self.link
            .run("looking who may hear of a room", async |connection| {
                let outsiders = sqlx::query_scalar!(
                    r#"select distinct u.id as "id!"
                       from unnest($2::uuid[]) as u (id)
                       join rooms r on r.id = $1
                       left join members m on m.room_id = r.id and m.user_id = u.id and m.removed_at is null
                       where r.deleted_at is not null or (r.kind = 'private' and m.user_id is null)"#,
                    room.as_str(),
                    &users,
                )
                .fetch_all(connection)
                .await?;
                Ok(outsiders.into_iter().map(UserId::new).collect())
            })
            .await
    }

    /// All events of a room after one position and up to another, oldest first, as they were logged. What was deleted is
    /// left out.
    pub async fn events_after(
        &self,
        room: &RoomId,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Stretch> {
        let ((after_ms, after_n), (until_ms, until_n)) = (after.to_store(), until.to_store());
        self.link
            .run("reading what came after", async |connection| {
                let rows = sqlx::query_as!(
                    EventRow,
                    r#"select event_id, position_ms, position_n, previous_ms, previous_n, kind, author_id, author_name,
                              client_id, reply_to, text, target_id, emoji, is_on,
                              null::bigint as edited_ms, null::bigint as edited_n, null::text as reactions
                       from messages
                       where room_id = $1
                         and (position_ms, position_n) > ($2, $3) and (position_ms, position_n) <= ($4, $5)
                         and (text is not null or kind in ('deleted', 'reacted'))
                       order by position_ms, position_n
                       fetch first ($6) rows with ties"#,
                    room.as_str(),
                    after_ms,
                    after_n,
                    until_ms,
                    until_n,
                    rows(limit),
                )
                .fetch_all(connection)
                .await?;
                Ok(stretch(room, rows, limit)?)
            })
            .await
    }

    /// The messages of a room after one position and up to another, oldest first, as they are now.
    pub async fn messages_after(
        &self,
        room: &RoomId,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Stretch> {
        self.messages(room, (after, Position::END), until, Order::OldestFirst, limit).await
    }

    /// The messages of a room before one position and up to another, newest first, as they are now.
    pub async fn messages_before(
        &self,
        room: &RoomId,
        before: Position,
        until: Position,
        limit: usize,
    ) -> Result<Stretch> {
        self.messages(room, (Position::BEGINNING, before), until, Order::NewestFirst, limit).await
    }

    /// Which of these events are stored at just these places, have not been deleted, and have been there for so long that
    /// nobody is about to look for them in the log.
    pub async fn stored_at(
        &self,
        room: &RoomId,
        places: &[(Position, EventId)],
    ) -> Result<Vec<(Position, EventId)>> {
        let (ms, n): (Vec<i64>, Vec<i64>) = places.iter().map(|(position, _)| position.to_store()).unzip();
        let events: Vec<_> = places.iter().map(|(_, event)| event.as_uuid()).collect();
        self.link
            .run("looking whether events are stored", async |connection| {
                let rows = sqlx::query!(
                    "select m.position_ms, m.position_n, m.event_id
                     from unnest($2::uuid[], $3::bigint[], $4::bigint[]) as p (event_id, position_ms, position_n)
                     join messages m
                       on m.room_id = $1 and m.event_id = p.event_id
                      and m.position_ms = p.position_ms and m.position_n = p.position_n
                     where (m.text is not null or m.kind in ('deleted', 'reacted'))
                       and m.stored_at < now() - make_interval(secs => $5)",
                    room.as_str(),
                    &events,
                    &ms,
                    &n,
                    SETTLED_AFTER.as_secs_f64(),
                )
                .fetch_all(connection)
                .await?;
                let stored = rows.into_iter().map(|row| {
                    let position = Position::from_store(row.position_ms, row.position_n);
                    (position, EventId::from_store(row.event_id))
                });
                Ok(stored.collect())
            })
            .await
    }

    /// The newest message of each of the rooms that have one, as it is now, without its reactions.
    pub async fn last_messages(&self, rooms: &[RoomId]) -> Result<HashMap<RoomId, Event>> {
        let names: Vec<String> = rooms.iter().map(|room| room.as_str().to_owned()).collect();
        self.link
            .run("reading the last messages of rooms", async |connection| {
                let rows = sqlx::query!(
                    r#"select m.room_id, m.event_id, m.position_ms, m.position_n, m.previous_ms, m.previous_n, m.kind,
                              m.author_id, m.author_name, m.client_id, m.reply_to,
                              coalesce(edit.text, m.text) as text, m.target_id, m.emoji, m.is_on,
                              edit.position_ms as "edited_ms?", edit.position_n as "edited_n?"
                       from unnest($1::text[]) as r (id)
                       cross join lateral (
                         select * from messages
                         where room_id = r.id and kind = 'message'
                         order by position_ms desc, position_n desc
                         limit 1
                       ) m
                       left join lateral (
                         select e.text, e.position_ms, e.position_n from messages e
                         where e.room_id = m.room_id and e.target_id = m.event_id and e.kind = 'edited'
                           and m.text is not null
                         order by e.position_ms desc, e.position_n desc
                         limit 1
                       ) edit on true"#,
                    &names,
                )
                .fetch_all(connection)
                .await?;
                let read = rows.into_iter().map(|row| {
                    let room = RoomId::from_store(row.room_id);
                    let event = EventRow {
                        event_id: row.event_id,
                        position_ms: row.position_ms,
                        position_n: row.position_n,
                        previous_ms: row.previous_ms,
                        previous_n: row.previous_n,
                        kind: row.kind,
                        author_id: row.author_id,
                        author_name: row.author_name,
                        client_id: row.client_id,
                        reply_to: row.reply_to,
                        text: row.text,
                        target_id: row.target_id,
                        emoji: row.emoji,
                        is_on: row.is_on,
                        edited_ms: row.edited_ms,
                        edited_n: row.edited_n,
                        reactions: None,
                    };
                    event.read(&room).map(|event| (room, event))
                });
                Ok(read.collect::<Result<_>>()?)
            })
            .await
    }

    async fn messages(
        &self,
        room: &RoomId,
        (after, before): (Position, Position),
        until: Position,
        order: Order,
        limit: usize,
    ) -> Result<Stretch> {
        // One bound above, and not two: from two Postgres would begin at the wrong one, perhaps far away.
        let (after_ms, after_n) = after.to_store();
        let (before_ms, before_n) = before.min(until.following()).to_store();
        self.link
            .run("reading messages", async |connection| {
                // One of the two parts is never run. Each reads as much of the index as the page holds.
                let rows = sqlx::query_as!(
                    EventRow,
                    r#"with page as (
                         (select * from messages
                          where $7 and room_id = $1 and kind = 'message'
                            and (position_ms, position_n) > ($2, $3)
                            and (position_ms, position_n) < ($4, $5)
                          order by position_ms desc, position_n desc
                          fetch first ($6) rows with ties)
                         union all
                         (select * from messages
                          where not $7 and room_id = $1 and kind = 'message'
                            and (position_ms, position_n) > ($2, $3)
                            and (position_ms, position_n) < ($4, $5)
                          order by position_ms, position_n
                          fetch first ($6) rows with ties)
                       )
                       select p.event_id as "event_id!", p.position_ms as "position_ms!", p.position_n as "position_n!",
                              p.previous_ms, p.previous_n, p.kind as "kind!", p.author_id as "author_id!",
                              p.author_name as "author_name!", p.client_id, p.reply_to,
                              coalesce(edit.text, p.text) as text, p.target_id, p.emoji, p.is_on,
                              edit.position_ms as "edited_ms?", edit.position_n as "edited_n?",
                              reactions.by_emoji as "reactions?"
                       from page p
                       left join lateral (
                         select e.text, e.position_ms, e.position_n from messages e
                         where e.room_id = p.room_id and e.target_id = p.event_id and e.kind = 'edited'
                           and p.text is not null
                         order by e.position_ms desc, e.position_n desc
                         limit 1
                       ) edit on true
                       left join lateral (
                         select jsonb_object_agg(emoji, users)::text as by_emoji
                         from (
                           select emoji, jsonb_agg(author_id order by position_ms, position_n) as users
                           from (
                             select distinct on (r.author_id, r.emoji)
                                    r.author_id, r.emoji, r.is_on, r.position_ms, r.position_n
                             from messages r
                             where r.room_id = p.room_id and r.target_id = p.event_id and r.kind = 'reacted'
                               and p.text is not null
                             order by r.author_id, r.emoji, r.position_ms desc, r.position_n desc
                           ) latest
                           where is_on
                           group by emoji
                         ) each
                       ) reactions on true
                       order by case when $7 then -p.position_ms else p.position_ms end,
                                case when $7 then -p.position_n else p.position_n end"#,
                    room.as_str(),
                    after_ms,
                    after_n,
                    before_ms,
                    before_n,
                    rows(limit),
                    order == Order::NewestFirst,
                )
                .fetch_all(connection)
                .await?;
                Ok(stretch(room, rows, limit)?)
            })
            .await
    }

    /// Which of these events are stored, under whatever name and wherever.
    pub async fn stored_among(&self, room: &RoomId, events: &[EventId]) -> Result<HashSet<EventId>> {
        let events: Vec<_> = events.iter().map(|event| event.as_uuid()).collect();
        self.link
            .run("looking which events are stored", async |connection| {
                let rows = sqlx::query_scalar!(
                    r#"select coalesce(logged_as, event_id) as "event_id!" from messages
                       where room_id = $1 and (event_id = any($2) or logged_as = any($2))"#,
                    room.as_str(),
                    &events,
                )
                .fetch_all(connection)
                .await?;
                Ok(rows.into_iter().map(EventId::from_store).collect())
            })
            .await
    }
}

/// In which order a stretch is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// One more than asked for tells whether there are more.
fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

/// Cuts behind the last that was asked for, but never between two at the same place: a cursor is a place.
fn stretch(room: &RoomId, rows: Vec<EventRow>, limit: usize) -> Result<Stretch> {
    let more = limit < rows.len();
    let events: Result<Vec<Event>> = rows.into_iter().map(|row| row.read(room)).collect();
    let mut events = events?;
    let mut end = limit.min(events.len());
    while 0 < end && end < events.len() && events[end].position == events[end - 1].position {
        end += 1;
    }
    events.truncate(end);
    Ok(Stretch { events, more })
}

struct EventRow {
    event_id: Uuid,
    position_ms: i64,
    position_n: i64,
    previous_ms: Option<i64>,
    previous_n: Option<i64>,
    kind: String,
    author_id: Uuid,
    author_name: String,
    client_id: Option<String>,
    reply_to: Option<Uuid>,
    text: Option<String>,
    target_id: Option<Uuid>,
    emoji: Option<String>,
    is_on: Option<bool>,
    edited_ms: Option<i64>,
    edited_n: Option<i64>,
    reactions: Option<String>,
}

impl EventRow {
    fn read(self, room: &RoomId) -> Result<Event> {
        let position = Position::from_store(self.position_ms, self.position_n);
        let place = |ms: Option<i64>, n: Option<i64>| Some(Position::from_store(ms?, n?));
        let kind = match self.kind.as_str() {
            "message" => EventKind::Message,
            "edited" => EventKind::Edited,
            "deleted" => EventKind::Deleted,
            "reacted" => EventKind::Reacted,
            _ => return Err(Error::internal("reading what a newer release has stored", self.kind)),
        };
        let reactions = self.reactions.as_deref().map(serde_json::from_str).transpose();
        let reactions = reactions.map_err(|cause| Error::internal("reading reactions", cause))?;
        Ok(Event {
            kind,
            room: room.clone(),
            position,
            previous: place(self.previous_ms, self.previous_n),
            event: EventId::from_store(self.event_id),
            from: Author { id: UserId::new(self.author_id), name: self.author_name },
            at: Timestamp(position.at()),
            id: self.client_id.map(ClientId::from_store),
            reply_to: self.reply_to.map(EventId::from_store),
            target: self.target_id.map(EventId::from_store),
            emoji: self.emoji,
            on: self.is_on,
            now: Now {
                edited_at: place(self.edited_ms, self.edited_n).map(|edited| Timestamp(edited.at())),
                deleted: kind == EventKind::Message && self.text.is_none(),
                reactions: reactions.unwrap_or_default(),
            },
            text: self.text.map(Text::from_store),
        })
    }
}

/// A row that is there, or is about to be.
#[derive(Debug)]
struct Row {
    stored: EventId,
    position: Position,
    gone: bool,
    /// The arrival that it is made of; none if it was there before.
    made_of: Option<usize>,
    /// The arrival that has moved it to a smaller place.
    moved_by: Option<usize>,
    /// Where it was before that.
    before: Option<Position>,
}

impl Row {
    /// The message whose deletion takes this row's text away; none if the row is not new, or has no text.
    fn message_with_text(&self, arrivals: &[Arrival]) -> Option<EventId> {
        match arrivals[self.made_of?].record.event.content {
            Content::Message { .. } => Some(self.stored),
            Content::Edited { target, .. } => Some(target),
            Content::Deleted { .. } | Content::Reacted { .. } => None,
        }
    }
}

/// Events of rooms that are locked.
struct Batch<'a> {
    arrivals: &'a [Arrival],
    rooms: BTreeSet<RoomId>,
    homeless: Vec<usize>,
    /// By room and by the name that the log knows. More than one only if a client has used an id again.
    rows: HashMap<(RoomId, EventId), Vec<Row>>,
    /// For each arrival: which of these rows it is.
    found: Vec<(usize, usize)>,
}

impl<'a> Batch<'a> {
    /// Locks the rooms, always in the same order, and reads what is there already.
    async fn begin(connection: &mut PgConnection, arrivals: &'a [Arrival]) -> Result<Self, Stopped> {
        let named: BTreeSet<&str> = arrivals.iter().map(|arrival| arrival.record.room.as_str()).collect();
        let named: Vec<String> = named.into_iter().map(str::to_owned).collect();
        let rooms = sqlx::query_scalar!(
            "select id from rooms where id = any($1) order by id for no key update",
            &named
        )
        .fetch_all(&mut *connection)
        .await?;
        let rooms: BTreeSet<RoomId> = rooms.into_iter().map(RoomId::from_store).collect();
        let is_homeless = |index: &usize| !rooms.contains(&arrivals[*index].record.room);
        let homeless: Vec<usize> = (0..arrivals.len()).filter(is_homeless).collect();
        let rows = rows_of(connection, arrivals).await?;
        Ok(Self { arrivals, rooms, homeless, rows, found: Vec::new() })
    }

    fn record(&self, index: usize) -> &'a ArchiveRecord {
        &self.arrivals[index].record
    }

    /// Gives each event its row. Smaller places first, so that no row moves because of a later arrival of this batch.
    fn place(&mut self) {
        let mut order: Vec<usize> = (0..self.arrivals.len()).filter(|i| !self.homeless.contains(i)).collect();
        order.sort_by_key(|index| self.record(*index).position);
        for index in order {
            let record = self.record(index);
            let (logged, position) = (record.event.event, record.position);
            let rows = self.rows.entry((record.room.clone(), logged)).or_default();
            let same = rows.iter().position(|row| row.position.distance(position) <= REPEAT_WINDOW);
            let row = same.unwrap_or_else(|| {
                let stored = if rows.is_empty() { logged } else { logged.reused_at(position) };
                if stored != logged {
                    tracing::warn!(room.id = %record.room, event = %logged, %position, "a client id was used again");
                }
                rows.push(Row { stored, position, gone: false, made_of: Some(index), moved_by: None, before: None });
                rows.len() - 1
            });
            let known = &mut rows[row];
            if position < known.position {
                known.before = Some(known.position);
                known.moved_by = Some(index);
                known.position = position;
            }
            self.found.push((index, row));
        }
    }

    fn all_rows(&self) -> impl Iterator<Item = (&RoomId, EventId, &Row)> {
        self.rows.iter().flat_map(|((room, logged), rows)| rows.iter().map(move |row| (room, *logged, row)))
    }

    /// What is new and was deleted before it came has no text.
    async fn find_deleted(&mut self, connection: &mut PgConnection) -> Result<(), Stopped> {
        let arrivals = self.arrivals;
        let texts = self.all_rows().filter_map(|(room, _, row)| {
            Some((room.as_str().to_owned(), row.message_with_text(arrivals)?.as_uuid()))
        });
        let (rooms, messages): (Vec<String>, Vec<Uuid>) = texts.unzip();
        let deleted = sqlx::query!(
            r#"select m.room_id, m.target_id as "target_id!"
               from unnest($1::text[], $2::uuid[]) as t (room_id, message_id)
               join messages m on m.room_id = t.room_id and m.target_id = t.message_id and m.kind = 'deleted'"#,
            &rooms,
            &messages,
        )
        .fetch_all(connection)
        .await?;
        let mut deleted: HashSet<(RoomId, EventId)> = deleted
            .into_iter()
            .map(|row| (RoomId::from_store(row.room_id), EventId::from_store(row.target_id)))
            .collect();
        deleted.extend(self.deletions());
        for ((room, _), rows) in &mut self.rows {
            for row in rows {
                let message = row.message_with_text(arrivals);
                row.gone |= message.is_some_and(|message| deleted.contains(&(room.clone(), message)));
            }
        }
        Ok(())
    }

    fn inserts(&self) -> Vec<(&Row, &'a ArchiveRecord)> {
        self.all_rows().filter_map(|(_, _, row)| Some((row, self.record(row.made_of?)))).collect()
    }

    fn moves(&self) -> Vec<(&Row, &'a ArchiveRecord)> {
        let moved = self.all_rows().filter(|(_, _, row)| row.made_of.is_none());
        moved.filter_map(|(_, _, row)| Some((row, self.record(row.moved_by?)))).collect()
    }

    /// Messages that this batch deletes, or a call before it did.
    fn deletions(&self) -> Vec<(RoomId, EventId)> {
        let deletions = self.found.iter().filter_map(|(index, _)| match &self.record(*index) {
            ArchiveRecord { room, event: EventBody { content: Content::Deleted { target }, .. }, .. } => {
                Some((room.clone(), *target))
            }
            _ => None,
        });
        deletions.collect()
    }

    /// The log said of each event which one came before it. If Postgres knows another one between them, the log had
    /// lost that.
    async fn lost_by_chain(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<RoomId, Position>, Stopped> {
        let mut links = Links::default();
        for (index, _) in &self.found {
            let record = self.record(*index);
            links.rooms.push(record.room.as_str().to_owned());
            links.events.push(record.event.event.as_uuid());
            let (ms, n) = record.previous.unwrap_or(Position::BEGINNING).to_store();
            links.previous_ms.push(ms);
            links.previous_n.push(n);
            let (ms, n) = record.position.to_store();
            links.position_ms.push(ms);
            links.position_n.push(n);
        }
        let between = sqlx::query!(
            r#"select l.room_id as "room_id!", m.position_ms, m.position_n
               from unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                    as l (room_id, event_id, previous_ms, previous_n, position_ms, position_n)
               cross join lateral (
                 select b.position_ms, b.position_n from messages b
                 where b.room_id = l.room_id
                   and (b.position_ms, b.position_n) > (l.previous_ms, l.previous_n)
                   and (b.position_ms, b.position_n) <= (l.position_ms, l.position_n)
                   and b.event_id <> l.event_id and b.logged_as is distinct from l.event_id
                 order by b.position_ms desc, b.position_n desc
                 limit 1
               ) m"#,
            &links.rooms,
            &links.events,
            &links.previous_ms,
            &links.previous_n,
            &links.position_ms,
            &links.position_n,
        )
        .fetch_all(connection)
        .await?;
        let mut lost: BTreeMap<RoomId, Position> = BTreeMap::new();
        for row in between {
            let known = lost.entry(RoomId::from_store(row.room_id)).or_insert(Position::BEGINNING);
            *known = Position::from_store(row.position_ms, row.position_n).max(*known);
        }
        Ok(lost)
    }

    fn finish(
        self,
        known: HashMap<RoomId, Known>,
        lost: &BTreeMap<RoomId, Position>,
        deleted: Vec<(RoomId, Settlement)>,
    ) -> Stored {
        let rooms = known.into_iter().map(|(room, known)| {
            let lost = lost.get(&room).copied();
            (room, StoredRoom { known, lost, events: Vec::new() })
        });
        let mut stored = Stored { rooms: rooms.collect(), homeless: self.homeless.clone() };
        let mut add = |room: &RoomId, settlement: Settlement| {
            if let Some(room) = stored.rooms.get_mut(room) {
                room.events.push(settlement);
            }
        };
        for (index, row) in &self.found {
            let record = self.record(*index);
            let logged = record.event.event;
            let row = &self.rows[&(record.room.clone(), logged)][*row];
            add(
                &record.room,
                Settlement {
                    logged,
                    stored: row.stored,
                    position: row.position,
                    places: [record.position].into_iter().chain(row.before).collect(),
                    gone: row.gone,
                    unsettled: self.arrivals[*index].again || row.made_of.is_some() || row.moved_by.is_some(),
                },
            );
        }
        for (room, settlement) in deleted {
            add(&room, settlement);
        }
        for StoredRoom { events, .. } in stored.rooms.values_mut() {
            // What this very batch has deleted is in it twice, and once as it was found.
            let gone: HashSet<EventId> =
                events.iter().filter(|event| event.gone).map(|event| event.stored).collect();
            for event in events {
                event.gone |= gone.contains(&event.stored);
            }
        }
        stored
    }
}

/// Each event with the one before it, column by column.
#[derive(Default)]
struct Links {
    rooms: Vec<String>,
    events: Vec<Uuid>,
    previous_ms: Vec<i64>,
    previous_n: Vec<i64>,
    position_ms: Vec<i64>,
    position_n: Vec<i64>,
}

async fn known(connection: &mut PgConnection, rooms: &[String]) -> Result<HashMap<RoomId, Known>, Stopped> {
    let rows = sqlx::query!(
        r#"select r.id, r.generations,
                  newest.position_ms as "newest_ms?", newest.position_n as "newest_n?"
           from rooms r
           left join lateral (
             select m.position_ms, m.position_n from messages m
             where m.room_id = r.id
             order by m.position_ms desc, m.position_n desc
             limit 1
           ) newest on true
           where r.id = any($1)"#,
        rooms,
    )
    .fetch_all(connection)
    .await?;
    let known = rows.into_iter().map(|row| {
        let newest = row.newest_ms.zip(row.newest_n);
        let known = Known {
            newest: newest.map_or(Position::BEGINNING, |(ms, n)| Position::from_store(ms, n)),
            generations: row.generations.unsigned_abs(),
        };
        (RoomId::from_store(row.id), known)
    });
    Ok(known.collect())
}

/// What is there of the events, under their own names and under others.
async fn rows_of(
    connection: &mut PgConnection,
    arrivals: &[Arrival],
) -> Result<HashMap<(RoomId, EventId), Vec<Row>>, Stopped> {
    let (rooms, events): (Vec<String>, Vec<Uuid>) = arrivals
        .iter()
        .map(|Arrival { record, .. }| (record.room.as_str().to_owned(), record.event.event.as_uuid()))
        .unzip();
    let found = sqlx::query!(
        r#"select distinct m.room_id as "room_id!", m.event_id as "event_id!", m.logged_as,
                  m.position_ms as "position_ms!", m.position_n as "position_n!", m.gone as "gone!"
           from unnest($1::text[], $2::uuid[]) as a (room_id, event_id)
           cross join lateral (
             select room_id, event_id, logged_as, position_ms, position_n,
                    text is null and kind in ('message', 'edited') as gone
             from messages where room_id = a.room_id and event_id = a.event_id
             union all
             select room_id, event_id, logged_as, position_ms, position_n,
                    text is null and kind in ('message', 'edited')
             from messages where room_id = a.room_id and logged_as = a.event_id
           ) m"#,
        &rooms,
        &events,
    )
    .fetch_all(connection)
    .await?;
    let mut rows: HashMap<_, Vec<Row>> = HashMap::new();
    for row in found {
        let logged = EventId::from_store(row.logged_as.unwrap_or(row.event_id));
        rows.entry((RoomId::from_store(row.room_id), logged)).or_default().push(Row {
            stored: EventId::from_store(row.event_id),
            position: Position::from_store(row.position_ms, row.position_n),
            gone: row.gone,
            made_of: None,
            moved_by: None,
            before: None,
        });
    }
    Ok(rows)
}

async fn insert(connection: &mut PgConnection, inserts: &[(&Row, &ArchiveRecord)]) -> Result<(), Stopped> {
    let mut columns = Columns::default();
    for (row, record) in inserts {
        columns.push(row, record);
    }
    let Columns { rooms, events, logged_as, position_ms, position_n, previous_ms, previous_n, .. } = &columns;
    let Columns { kinds, authors, names, client_ids, replies, texts, targets, emojis, on, .. } = &columns;
    sqlx::query!(
        "insert into messages
           (room_id, event_id, logged_as, position_ms, position_n, previous_ms, previous_n,
            kind, author_id, author_name, client_id, reply_to, text, target_id, emoji, is_on)
         select * from unnest(
           $1::text[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
           $8::text[], $9::uuid[], $10::text[], $11::text[], $12::uuid[], $13::text[], $14::uuid[], $15::text[],
           $16::boolean[])",
        rooms,
        events,
        logged_as as &[Option<Uuid>],
        position_ms,
        position_n,
        previous_ms as &[Option<i64>],
        previous_n as &[Option<i64>],
        kinds as &[&str],
        authors,
        names,
        client_ids as &[Option<String>],
        replies as &[Option<Uuid>],
        texts as &[Option<String>],
        targets as &[Option<Uuid>],
        emojis as &[Option<String>],
        on as &[Option<bool>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows, column by column.
#[derive(Default)]
struct Columns {
    rooms: Vec<String>,
    events: Vec<Uuid>,
    logged_as: Vec<Option<Uuid>>,
    position_ms: Vec<i64>,
    position_n: Vec<i64>,
    previous_ms: Vec<Option<i64>>,
    previous_n: Vec<Option<i64>>,
    kinds: Vec<&'static str>,
    authors: Vec<Uuid>,
    names: Vec<String>,
    client_ids: Vec<Option<String>>,
    replies: Vec<Option<Uuid>>,
    texts: Vec<Option<String>>,
    targets: Vec<Option<Uuid>>,
    emojis: Vec<Option<String>>,
    on: Vec<Option<bool>>,
}

impl Columns {
    fn push(&mut self, row: &Row, record: &ArchiveRecord) {
        let EventBody { event: logged, from, content } = &record.event;
        let (ms, n) = row.position.to_store();
        self.rooms.push(record.room.as_str().to_owned());
        self.events.push(row.stored.as_uuid());
        self.logged_as.push((row.stored != *logged).then(|| logged.as_uuid()));
        self.position_ms.push(ms);
        self.position_n.push(n);
        self.previous_ms.push(record.previous.map(|previous| previous.to_store().0));
        self.previous_n.push(record.previous.map(|previous| previous.to_store().1));
        self.authors.push(from.id.as_uuid());
        self.names.push(from.name.clone());
        let written = |text: &Text| (!row.gone).then(|| text.as_str().to_owned());
        let (kind, text, target) = match content {
            Content::Message { text, .. } => ("message", written(text), None),
            Content::Edited { target, text } => ("edited", written(text), Some(target)),
            Content::Deleted { target } => ("deleted", None, Some(target)),
            Content::Reacted { target, .. } => ("reacted", None, Some(target)),
        };
        self.kinds.push(kind);
        self.texts.push(text);
        self.targets.push(target.map(|target| target.as_uuid()));
        let (id, reply_to) = match content {
            Content::Message { id, reply_to, .. } => (id.as_ref(), *reply_to),
            _ => (None, None),
        };
        self.client_ids.push(id.map(|id| id.as_str().to_owned()));
        self.replies.push(reply_to.map(EventId::as_uuid));
        let (emoji, on) = match content {
            Content::Reacted { emoji, on, .. } => (Some(emoji.clone()), Some(*on)),
            _ => (None, None),
        };
        self.emojis.push(emoji);
        self.on.push(on);
    }
}

/// Gives rows the smaller places that their events were found to have.
async fn move_rows(connection: &mut PgConnection, moves: &[(&Row, &ArchiveRecord)]) -> Result<(), Stopped> {
    // Rare: only when Redis was lost between a send and its repeat.
    for (row, record) in moves {
        let (ms, n) = row.position.to_store();
        let previous = record.previous.map(Position::to_store);
        sqlx::query!(
            "update messages set
               position_ms = $3, position_n = $4, previous_ms = $5, previous_n = $6, stored_at = now()
             where room_id = $1 and event_id = $2",
            record.room.as_str(),
            row.stored.as_uuid(),
            ms,
            n,
            previous.map(|(ms, _)| ms),
            previous.map(|(_, n)| n),
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Deletes the texts of messages and of their edits, and answers what the log may still have of them.
async fn delete_texts(
    connection: &mut PgConnection,
    deletions: &[(RoomId, EventId)],
) -> Result<Vec<(RoomId, Settlement)>, Stopped> {
    let (rooms, messages): (Vec<String>, Vec<Uuid>) =
        deletions.iter().map(|(room, message)| (room.as_str().to_owned(), message.as_uuid())).unzip();
    // Messages and edits apart: by one condition with "or" they are only found by reading all of the room.
    let rows = sqlx::query!(
        "update messages m set text = null
         from (
           select w.room_id, w.event_id
           from unnest($1::text[], $2::uuid[]) as d (room_id, message_id)
           join messages w on w.room_id = d.room_id and w.event_id = d.message_id and w.kind = 'message'
           union
           select e.room_id, e.event_id
           from unnest($1::text[], $2::uuid[]) as d (room_id, message_id)
           join messages e on e.room_id = d.room_id and e.target_id = d.message_id and e.kind = 'edited'
         ) gone
         where m.room_id = gone.room_id and m.event_id = gone.event_id
         returning m.room_id, m.event_id, m.logged_as, m.position_ms, m.position_n",
        &rooms,
        &messages,
    )
    .fetch_all(connection)
    .await?;
    let settlements = rows.into_iter().map(|row| {
        let position = Position::from_store(row.position_ms, row.position_n);
        let settlement = Settlement {
            logged: EventId::from_store(row.logged_as.unwrap_or(row.event_id)),
            stored: EventId::from_store(row.event_id),
            position,
            places: vec![position],
            gone: true,
            unsettled: false,
        };
        (RoomId::from_store(row.room_id), settlement)
    });
    Ok(settlements.collect())
}
