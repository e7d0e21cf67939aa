-- May this frame of this connection be handled?
-- KEYS    1 the user's connections, 2 the passes of a repeated send, 3… the windows
-- ARGV    1 connection, 2 whether the frame can be a repeat (1 or 0), 3 how often a repeat passes uncounted,
--         4 seconds for which it does; then for each window: count, window_us
-- answer  {'unknown', 0} Redis does not know this connection; {'ended', 0} its session has ended;
--         {'throttled', microseconds to wait}; {'admitted', 0}

local connection = redis.call('HGET', KEYS[1], ARGV[1])
if not connection then return {'unknown', 0} end
if string.sub(connection, 1, 1) == '-' then return {'ended', 0} end

local repeatable = ARGV[2] == '1'
if repeatable then
  local passes = redis.call('GET', KEYS[2])
  if passes and tonumber(passes) < tonumber(ARGV[3]) then
    redis.call('INCR', KEYS[2])
    return {'admitted', 0}
  end
end

local wait = pass(KEYS, 3, ARGV, 5)
if wait > 0 then return {'throttled', wait} end

if repeatable then redis.call('SET', KEYS[2], 0, 'EX', ARGV[4], 'NX') end
return {'admitted', 0}
