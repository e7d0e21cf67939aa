# Runs one server and ends it when its owner ends.
#
#   sh -c "$watchdog" watchdog SIGNAL TENTHS PROGRAM ARGUMENT...
#
# Standard input is a pipe of which only the owner holds the other end: it ends with the owner, however the owner ends.
# Then the server gets SIGNAL, and if that is not enough in so many tenths of a second SIGKILL. The first line of standard
# output is the server's process id; the status is the server's.
signal=$1
tenths=$2
shift 2
exec 3<&0

"$@" </dev/null >&2 3<&- &
server=$!

(
	read -r _ <&3
	kill -s "$signal" "$server"
	# A frozen server sees its signal only when it goes on.
	kill -s CONT "$server"
	tries=0
	while kill -s 0 "$server" && [ "$tries" -lt "$tenths" ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	kill -s KILL "$server"
) >/dev/null 2>&1 &
watcher=$!

echo "$server"
wait "$server"
status=$?
kill "$watcher"
exit "$status"
