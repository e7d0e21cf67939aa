-- Compares events that Postgres has just stored with the log: takes out what Postgres has elsewhere, as something else or
-- no more, and begins a generation if readers cannot have found one of them.
-- KEYS    1 head, 2 log, 3… the positions that the events were given (`sent`)
-- ARGV    1 fresh generation, 2 position up to which the log had lost something when these events were appended ('' if
--         nothing), 3 newest position that Postgres has, 4 count of generations that Postgres knows of, 5 seconds for which
--         the room stays after its last use, 6 seconds between two generations that begin only because a name was given
--         again; then for each event: its name in the log, its position in Postgres, 1 if its
--         text is deleted, 1 if Postgres has it under another name, 1 if nobody has looked for it yet, the positions at
--         which the log may have it
-- answer  {'absent', count} there is nothing to compare with;
--         {'agrees', entries in the log, 1 if some events have to come again};
--         {'begun', entries in the log, 1 if some events have to come again, generation, count}

local fresh, count = ARGV[1], tonumber(ARGV[4])
local head = check_head(KEYS[1], KEYS[2], fresh)

local EACH = 6
local function event(index)
  local first = 7 + (index - 1) * EACH
  return {
    name = ARGV[first], position = ARGV[first + 1], gone = ARGV[first + 2] == '1', renamed = ARGV[first + 3] == '1',
    unsettled = ARGV[first + 4] == '1', places = ARGV[first + 5],
  }
end
local events = (#ARGV - 6) / EACH

if not head then
  -- A Redis from before this may come back, and must not be believed then.
  local unseen = false
  for index = 1, events do
    local stored = event(index)
    unseen = unseen or (stored.unsettled and not stored.gone)
  end
  return {'absent', unseen and count + 1 or count}
end

-- Up to where the log cannot be trusted; false if it can.
local lost = head.disagreed and '0-0' or false
local function forget(position) lost = latest(lost, position) end
-- Up to where it had lost something before, a repeat would not find any more.
if ARGV[2] ~= '' and before(head.since, ARGV[2]) then forget(ARGV[2]) end
-- It may be ahead of the log only because this batch has put it there: so it counts only with the generations.
if head.count < count then forget(ARGV[3]) end

-- An event that Postgres has under another name is none that Redis forgot: a client has used an id again after a day. It may
-- do so with every message, and each generation makes a whole room read again: so they wait for each other.
local now = tonumber(redis.call('TIME')[1])
local renamed = tonumber(redis.call('HGET', KEYS[1], 'renamed') or 0)
local wait = renamed <= now and now < renamed + tonumber(ARGV[6])
local waits, takes_out_renamed = 0, false

local function settle(index)
  local stored, sent = event(index), KEYS[index + 2]
  if stored.renamed then
    if wait then
      waits = 1
      return
    end
    takes_out_renamed = true
  end
  local given = string.match(redis.call('GET', sent) or '', '^(%S+) ')

  local function is_elsewhere(place) return stored.renamed or place ~= stored.position end
  local function take_out(place)
    if not (is_elsewhere(place) or stored.gone) or event_at(KEYS[2], place) ~= stored.name then return end
    redis.call('XDEL', KEYS[2], place)
    forget(place)
    -- What came before it at its place, this log does not know.
    if given and not stored.renamed then redis.call('SET', sent, stored.position .. ' ', 'KEEPTTL') end
  end

  for place in string.gmatch(stored.places, '%S+') do
    -- Readers may have seen it there, whatever the log has now.
    if is_elsewhere(place) and (stored.unsettled or before(head.since, place)) then forget(place) end
    take_out(place)
  end
  if given then take_out(given) end

  local looked_for = not stored.gone and (stored.unsettled or before(head.since, stored.position))
  if looked_for and (stored.renamed or event_at(KEYS[2], stored.position) ~= stored.name) then
    forget(stored.position)
  end
end

for index = 1, events do settle(index) end
if takes_out_renamed and lost then redis.call('HSET', KEYS[1], 'renamed', string.format('%.0f', now)) end

local length = redis.call('XLEN', KEYS[2])
if not lost then return {'agrees', length, waits} end

count = math.max(head.count, count) + 1
begin_generation(KEYS[1], KEYS[2], fresh, count, latest(head.since, lost), latest(head.last, lost), true)
keep({KEYS[1], KEYS[2]}, ARGV[5])
return {'begun', length, waits, fresh, count}
