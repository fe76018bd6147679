# Judges the demo from the lines of verdict.tpl: how many app containers ran at once, and whether every Job completed.
#
# The kubelet reports whole seconds, cut off: a container with the times s and f began in [s, s+1) and ended in [f, f+1). So it ran for certain
# at every full second t with s < t <= f, and at most from s to f+1. The verdict rests on the certain count. The other one, which takes a container
# that ended in the same second in which another began for an overlap, is printed beside it.
BEGIN {
  FS = "\t"
  split(limits, list, " ")
  for (i in list) { split(list[i], pair, "="); limit[pair[1]] = pair[2] }
  split(names, list, " ")
  for (i in list) { split(list[i], pair, "="); name[pair[1]] = pair[2] }
  groups = split(expected, list, " ")
  for (i = 1; i <= groups; i++) { split(list[i], pair, "="); order[i] = pair[1]; want[pair[1]] = pair[2] }
}

$1 == "job" { jobs[$3]++; if ($4 == "Complete") complete[$3]++; else bad[$3] = bad[$3] " " $2 ($4 == "Failed" ? " (failed)" : " (not ended)") }
$1 == "container" && $4 != "" {
  n = ++containers[$3]
  begin[$3, n] = seconds($4)
  end[$3, n] = $5 != "" ? seconds($5) : now + 1
  if (!(($3, $2) in ran)) { ran[$3, $2] = 1; jobs_ran[$3]++ }
  if ($6 + 0) failures[$3]++
}

END {
  wrong = 0
  print "Verdict, from the times that the kubelet reported and the conditions of the Jobs:"
  for (i = 1; i <= groups; i++) {
    g = order[i]
    certain = possible = 0
    for (a = 1; a <= containers[g]; a++) {
      # The most that run at once do so when one of them begins or when one of them ends.
      sure = could = 0
      for (b = 1; b <= containers[g]; b++) {
        if (begin[g, b] < end[g, a] && end[g, a] <= end[g, b]) sure++
        if (begin[g, b] <= begin[g, a] && begin[g, a] <= end[g, b]) could++
      }
      if (sure > certain) certain = sure
      if (could > possible) possible = could
    }
    printf "  %-24s limit %d: %d app containers, at most %d ran at once", name[g], limit[g], containers[g], certain
    if (possible > certain) printf " (%d if those that ended in the second in which another began are counted too)", possible
    print ""
    printf "  %-24s %d of %d Jobs complete\n", "", complete[g], want[g]
    if (certain > limit[g]) { print "    WRONG: more than " limit[g] " ran at once"; wrong = 1 }
    if (jobs[g] != want[g]) { print "    WRONG: there are " jobs[g] + 0 " Jobs, not " want[g]; wrong = 1 }
    if (bad[g] != "") { print "    WRONG: not complete:" bad[g]; wrong = 1 }
    if (jobs_ran[g] + 0 < jobs[g]) { print "    WRONG: the kubelet reported times for the Pods of only " jobs_ran[g] + 0 " of them, so this cannot be judged"; wrong = 1 }
    if (failures[g]) print "    (" failures[g] " containers ended with an error and were tried again)"
  }
  print wrong ? "FAILED" : "PASSED"
  exit wrong
}
