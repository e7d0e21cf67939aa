-- Rooms, and who belongs to them.

create table rooms (
    -- The readable name that people type. "C" sorts by byte, as clients do, whatever the database's own collation.
    id text collate "C" constraint rooms_pkey primary key,
    title text not null constraint rooms_title_length check (char_length(title) between 1 and 100),
    -- Further kinds replace this check with a wider one.
    kind text not null constraint rooms_kind_known check (kind in ('public', 'private')),
    created_at timestamptz not null default now(),
    -- A row is never deleted: its id is never given again, or a link to one conversation would one day lead into another.
    -- Its owners stay in "members" until Redis has forgotten the room as well: so they are known if they have to try again.
    deleted_at timestamptz,
    constraint rooms_id_typeable check (id ~ '^[a-z0-9][a-z0-9-]{0,63}$')
);

-- The list of public rooms is read page by page in the order of the ids.
create index rooms_public_idx on rooms (id) where kind = 'public' and deleted_at is null;

create table members (
    room_id text collate "C" not null constraint members_room_id_fkey references rooms (id),
    -- Without "on delete cascade": who ends an account must first settle what becomes of the rooms that it owns.
    user_id uuid not null constraint members_user_id_fkey references users (id),
    role text not null constraint members_role_known check (role in ('owner', 'moderator', 'member')),
    joined_at timestamptz not null default now(),
    -- A removal sets it, ends the user's subscriptions, and removes the row only then: who was a member can finish a
    -- removal that lost Redis half-way, and who never was one does not get as far as Redis.
    removed_at timestamptz,
    constraint members_pkey primary key (room_id, user_id)
);

-- The rooms of one user, in the order of their ids.
create index members_user_id_idx on members (user_id, room_id);
