-- What was written, for good: one row an event, by the archive, in whatever order the queue gives.

create table messages (
    room_id text collate "C" not null constraint messages_room_id_fkey references rooms (id),
    -- Its name for good: made of room, author and client id, so a repeat has the same.
    event_id uuid not null,
    -- The name that the room's log knew it by, where that is another one: a client may use an id again after a day, for
    -- another message, which then gets another name.
    logged_as uuid,
    -- The place in the room's one order: the id in the room's Redis stream. No two events of one log share a place, but
    -- a log that was lost may have given one before.
    position_ms bigint not null,
    position_n bigint not null,
    -- The place before it in the log; null for the first.
    previous_ms bigint,
    previous_n bigint,
    kind text not null,
    -- No reference: what was said stays when an account goes.
    author_id uuid not null,
    author_name text not null,
    -- The client's own id of a message.
    client_id text,
    reply_to uuid,
    -- Of a message or an edit; null once the message is deleted.
    text text,
    -- The message that an edit, a deletion or a reaction is about. It may come later than they do.
    target_id uuid,
    emoji text,
    is_on boolean,
    -- When it came to stand where it stands: it stays in the log for a while after that.
    stored_at timestamptz not null default now(),
    constraint messages_pkey primary key (room_id, event_id),
    constraint messages_kind_known check (kind in ('message', 'edited', 'deleted', 'reacted')),
    constraint messages_target_present check ((kind = 'message') = (target_id is null)),
    constraint messages_reaction_whole check (kind <> 'reacted' or (emoji is not null and is_on is not null))
);

-- Every page of history begins at a position.
create index messages_position_idx on messages (room_id, position_ms, position_n);
-- What has become of a message is worked out when it is read: so the order in which its edits come does not matter.
create index messages_target_idx on messages (room_id, target_id) where target_id is not null;
create index messages_logged_as_idx on messages (room_id, logged_as) where logged_as is not null;

-- How many generations a room's log has had. Redis counts them too, but it may forget that it has forgotten: a log that
-- knows of fewer is an old one that has come back.
alter table rooms add column generations bigint not null default 0;
