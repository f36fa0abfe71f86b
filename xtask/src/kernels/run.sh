# What is run in a guest: each step between two lines that the caller looks for. Expects IPCTRACE, TESTS, DEMOS, STEPS
# and SEEDS, which the caller puts before this.
export HOME=/root TERM=dumb LANG=C.UTF-8 IPCTRACE IPCTRACE_SLOW=20 IPCTRACE_SEEDS=$SEEDS
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ulimit -l unlimited
# The kernel would look for it in the root that it started with. Without it the tests between namespaces are skipped.
modprobe -a veth bridge
step() {
  name=$1 limit=$2
  shift 2
  echo "@@ begin $name"
  timeout -k 5 "$limit" "$@" 2>&1
  status=$?
  echo "@@ end $status"
}
# Locked down, kernel_lockdown(7), for which there is no way back, nothing can be traced, and one line says so.
locked='
  grep -q securityfs /proc/mounts || mount -t securityfs none /sys/kernel/security || exit
  echo confidentiality > /sys/kernel/security/lockdown || exit
  for what in "trace -d 1" doctor; do
    "$IPCTRACE" $what > /tmp/said 2>&1
    status=$?
    cat /tmp/said
    [ $status = 3 ] && [ "$(grep -c "boot with lockdown=" /tmp/said)" = 1 ] || exit 1
  done
  # Of doctor it is one of several.
  [ "$("$IPCTRACE" trace -d 1 2>&1 | wc -l)" = 1 ]
'
for one in $STEPS; do
  case $one in
    doctor) step doctor 300 "$IPCTRACE" doctor ;;
    facts) step facts 300 "$IPCTRACE" doctor --facts ;;
    demos)
      for demo in $DEMOS; do
        step "demo $demo" 300 "$IPCTRACE" demo "$demo"
        # Emulated processors are slow and uneven: what fails once has a second chance, and the table says so.
        [ $status = 0 ] || [ $status = 3 ] || step "demo $demo again" 300 "$IPCTRACE" demo "$demo"
      done
      ;;
    programs) step programs 600 "$TESTS/programs" --test-threads=1 --nocapture ;;
    syscall | object)
      # Programs on functions are skipped where tasks are preempted (docs/limitations.md): where that can be chosen, they are not.
      [ $one = syscall ] || echo none > /sys/kernel/debug/sched/preempt || cat /sys/kernel/debug/sched/preempt
      # All scenarios, demos and seeds under one tracer, for each start of one takes 10 to 60 s here.
      export IPCTRACE_HOOKS=$one
      step "batch $one" 2400 "$TESTS/batch" all_under_one_trace --exact --ignored --test-threads=1 --nocapture
      step "calls $one" 900 "$TESTS/batch" seeds_call_by_call --exact --ignored --test-threads=1 --nocapture
      unset IPCTRACE_HOOKS
      ;;
    lockdown) step lockdown 120 sh -c "$locked" ;;
  esac
done
