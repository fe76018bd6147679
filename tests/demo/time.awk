# seconds("2026-01-02T03:04:05Z") since 1970, without help from the system: not every awk has mktime.
function seconds(text, part, y, m, d, days) {
  if (split(text, part, /[-T:Z.]/) < 6) return -1
  y = part[1] + 0; m = part[2] + 0; d = part[3] + 0
  # The year begins in March here, so that the leap day is its last.
  if (m <= 2) { y--; m += 12 }
  days = 365 * y + int(y / 4) - int(y / 100) + int(y / 400) + int((153 * (m - 3) + 2) / 5) + d - 719469
  return days * 86400 + part[4] * 3600 + part[5] * 60 + part[6]
}

function duration(s) {
  if (s < 0) s = 0
  return s < 60 ? s " s" : int(s / 60) "m" sprintf("%02d", s % 60) "s"
}
