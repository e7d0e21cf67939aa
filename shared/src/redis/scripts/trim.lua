-- Takes entries out of a log that Postgres has at just these places.
-- KEYS    1 head, 2 log
-- ARGV    for each entry: position, event
-- answer  how many were taken out

local head = read_head(KEYS[1])
if not head then return 0 end

local trimmed, since = 0, head.since
for index = 1, #ARGV, 2 do
  if event_at(KEYS[2], ARGV[index]) == ARGV[index + 1] then
    trimmed = trimmed + redis.call('XDEL', KEYS[2], ARGV[index])
    since = latest(since, ARGV[index])
  end
end
redis.call('HSET', KEYS[1], 'since', since)
return trimmed
