# Removes a folder when its owner ends: standard input is a pipe of which only the owner holds the other end.
#
#   sh -c "$keeper" keeper FOLDER
#
# A server that is just ending may still write there, so this tries again until the folder is gone.
read -r _
tries=0
until rm -rf -- "$1" && [ ! -e "$1" ]; do
	tries=$((tries + 1))
	[ "$tries" -lt 200 ] || exit 1
	sleep 0.1
done
