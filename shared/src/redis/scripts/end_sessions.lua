-- Marks the connections of sessions that have ended: from now on no frame of theirs is admitted. They stay until they
-- are forgotten, so that a repeat of this finds them again.
-- KEYS    1 the user's connections
-- ARGV    the sessions
-- answer  the connections

local ended_sessions = {}
for _, session in ipairs(ARGV) do ended_sessions[session] = true end

local ended = {}
local connections = redis.call('HGETALL', KEYS[1])
for index = 1, #connections, 2 do
  local connection, value = connections[index], connections[index + 1]
  local mark, session = string.match(value, '^(%-?)(%S+)')
  if ended_sessions[session] then
    ended[#ended + 1] = connection
    if mark == '' then redis.call('HSET', KEYS[1], connection, '-' .. value) end
  end
end
return ended
