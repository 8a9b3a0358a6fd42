#!/bin/sh
# Payload of the crash suite. $1: what to do, $2: for how many seconds. First and last it tells the witness.
say() { echo "$PILOTAGE_TASK_ID $PILOTAGE_PILOT_ID $PILOTAGE_ATTEMPT $PILOTAGE_RANK $1 $$" >> "$FAULTS_WITNESS"; }
[ "$1" != stubborn ] || trap '' TERM
say begin
case $1 in
sleep | stubborn) sleep "$2" ;;
gate) until [ -e "$FAULTS_FOLDER/gate" ]; do sleep 0.02; done ;;
daemon) setsid sh -c 'setsid sleep 300 & sleep 300' & ;;
children) sleep 300 & sleep 300 & ;;
flaky) [ "$PILOTAGE_ATTEMPT" -gt 1 ] || exit 7 ;;
chatty) head -c 4000000 /dev/zero && echo done ;;
esac || exit 9
say end
