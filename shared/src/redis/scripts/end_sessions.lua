-- Forgets the connections of sessions that have ended: from now on no frame of theirs is admitted.
-- KEYS    1 the user's connections
-- ARGV    the sessions
-- answer  the connections

local ended_sessions = {}
for _, session in ipairs(ARGV) do ended_sessions[session] = true end

local ended = {}
local connections = redis.call('HGETALL', KEYS[1])
for index = 1, #connections, 2 do
  if ended_sessions[string.match(connections[index + 1], '^%S+')] then
    ended[#ended + 1] = connections[index]
    redis.call('HDEL', KEYS[1], connections[index])
  end
end
return ended
