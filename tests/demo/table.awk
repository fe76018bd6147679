# What the demo shows while it runs, from the lines of table.tpl. -v style=table: a picture of at most `rows` lines; style=line: one line.
BEGIN { FS = "\t" }

$1 == "primitive" { order[++primitives] = $2; permits[$2] = $3 }
$1 == "holder" { held[$2, ++holders[$2]] = $3; token[$2, holders[$2]] = $5; since[$2, holders[$2]] = seconds($6); in_use[$2] += $4 ? $4 : 1; holds[$2, tolower($3)] = 1 }
$1 == "job" { jobs++; if ($3 == "Complete") complete++; if ($3 == "Failed") failed++ }
$1 == "pod" && $4 != "" && $5 != "" { pods++; pod_name[pods] = $3 != "" ? "job/" $3 : "pod/" $2; pod_for[pods] = $4; pod_since[pods] = seconds($5); pod_created[pods] = seconds($6) }

END {
  # Who waits: its acquire step runs, and it is not among the holders. Oldest first.
  for (i = 1; i <= pods; i++) {
    if ((pod_for[i], pod_name[i]) in holds) continue
    p = pod_for[i]; n = ++queue[p]
    for (j = n; j > 1 && pod_created[queued[p, j - 1]] > pod_created[i]; j--) queued[p, j] = queued[p, j - 1]
    queued[p, j] = i
  }
  if (style == "line") line(); else table()
}

function line(  i, p, text) {
  text = sprintf("%6s  %d of %d Jobs complete", duration(elapsed), complete, jobs)
  if (failed) text = text sprintf(", %d FAILED", failed)
  for (i = 1; i <= primitives; i++) {
    p = order[i]
    text = text "; " tolower(p) ": " (permits[p] != "" ? in_use[p] + 0 " of " permits[p] " held" : holders[p] ? "held by " tolower(held[p, 1]) : "free") ", " queue[p] + 0 " wait"
  }
  print text
}

function table(  i, j, p, room, shown, total) {
  total = 2 + 2 * primitives # the lines that are always there
  for (i = 1; i <= primitives; i++) total += holders[order[i]]
  room = rows - total - 2
  put(sprintf("konductor demo, %s: %d of %d Jobs complete%s", duration(elapsed), complete, jobs, failed ? ", " failed " FAILED" : ""), "1")
  for (i = 1; i <= primitives; i++) {
    p = order[i]
    put("")
    put(sprintf("%-28s %s", tolower(p), permits[p] != "" ? in_use[p] + 0 " of " permits[p] " permits held, " queue[p] + 0 " wait" : holders[p] + 0 " of 1 held, " queue[p] + 0 " wait"), "1")
    for (j = 1; j <= holders[p]; j++) put(sprintf("  holds  %-24s for %-8s token %s", tolower(held[p, j]), duration(now - since[p, j]), token[p, j]), "32")
    # Every primitive gets its part of the room for those that wait.
    shown = int(room / primitives) - 1
    for (j = 1; j <= queue[p] && j <= shown; j++) put(sprintf("  waits  %-24s for %s", pod_name[queued[p, j]], duration(now - pod_since[queued[p, j]])))
    if (queue[p] > shown) put("         and " queue[p] - (shown > 0 ? shown : 0) " more")
  }
}

function put(text, colour) {
  text = substr(text, 1, columns - 1)
  print colour ? "\033[" colour "m" text "\033[0m" : text
}
