package guard

import "testing"

// TestOrphanOfTheOpened has a record that was nobody's when its process is opened
// for another, with a shorter timeout: it is judged by both.
func TestOrphanOfTheOpened(t *testing.T) {
	w := newWorld(t)
	w.tb().records[10] = record(110, "c", 30, 1)
	w.run(5 * sec) // an orphan
	p := w.start(110).join(11, "c", 2)
	p.slot, p.timeout = 10, 30*sec
	w.run(20 * sec)
	w.none(EvLate)
	w.run(20 * sec)
	if e := w.find(EvLate, 110); len(e) != 1 || e[0].Timeout != 30*sec {
		t.Error(w)
	}
}

// TestSimCases runs schedules that found something, as small as shrinking made
// them.
func TestSimCases(t *testing.T) {
	cases := map[string]string{
		"a start is given back while one is looked at":        "0s host 0 0 14; 0s unit 0 16847 13057; 4.73s slow-bus 3 0 0; 10.654s restart 0 0 0; 12s use 0 0 0",
		"what was not witnessed of a forming record counts":   "0s start 0 0 0; 1s pause 6 0 0",
		"nor while no timeout is in force":                    "0s start 0 46506 0; 0s reuse 0 12749 0; 0s reload 8 0 0; 0s forge 0 0 38; 9s late-ticks 6 0 0; 2s reload 0 0 0",
		"registers anew on the ladder":                        "0s start 0 226 0; 10s rejoin 0 0 0",
		"is wiped and registers anew on the ladder":           "0s start 0 0 0; 0s unsettled 0 156 0; 11s wipe 0 0 0; 0s rejoin 0 0 0",
		"late wakes on the ladder, after a beat":              "0s start 0 34188 0; 4s late-ticks 7 0 0; 4s remove-table 0 0 0",
		"asked for consent before it was opened":              "0s start 0 0 148; 1s not-open 0 0 0; 0s restart 0 0 0; 1s rejoin 0 0 0",
		"a forged record is opened before its own":            "0s start 0 115 0; 0s not-open 0 0 0; 4s forge 0 0 0; 2s new-table 0 0 0",
		"an old record is found, and taken for a beat":        "0s start 0 0 20; 1s reuse 0 41252 0",
		"an old record forms while its new owner is ended":    "0s start 0 0 0; 1.477s unsettled 0 126 0; 0s reuse 0 38286 0",
		"evidence that was asked for early, and dropped":      "1s start 0 157 0; 18s mass-hang 0 0 0; 5.994s restart 0 0 0; 1s signal-error 7 0 0; 1.107s unsettled 0 231 0",
		"evidence that was asked for early, then late wakes":  "0s start 0 228 0; 6s late-ticks 7 0 0; 3s release 0 0 0",
		"evidence is old when a record has formed":            "0s host 2 0 0; 0s start 0 0 0; 1s rejoin 0 0 0; 2s rename 0 53 0; 4s overwrite 0 0 0",
		"evidence is old after a gap":                         "0s start 0 148 0; 0s start 0 55887 28; 1s stall 9 0 0; 32.662s hang 0 0 0; 0s stall 12 0 0",
		"a ladder goes on when the right to act is lost":      "0s host 0 169 0; 0s start 0 0 0; 9s down 2264 0 0; 2.895s late-ticks 8976 51104 0; 754ms lock 0 0 0; 556ms reload 0 0 0",
		"a ladder goes on when its target registers anew":     "0s host 0 121 0; 0s start 0 0 0; 9s late-ticks 57168 0 0; 0s down 43373 0 0; 3.893s rejoin 0 0 0",
		"a signal fails, and its target has beaten since":     "0s host 0 61 0; 0s start 0 10739 0; 0s slow-words 11 0 0; 0s signal-error 9 0 0; 0s mass-go-on 0 0 0; 7.923s slow-maps 0 0 0; 4.62s crash-daemon 2 0 0",
		"what the soft look at another silence saw":           "0s start 0 13 0; 4s stop 0 0 0; 2.5s release 0 0 0; 500ms hang 0 0 0; 3.5s blind 0 0 0; 1.5s blind 0 0 0",
		"its soft look is past when a longer timeout is read": "0s start 0 5720 0; 0s mass-hang 0 0 0; 6s reload 8 0 0; 16s reload 0 0 0",

		"gives up what never registered":                   "0s host 0 176 0; 0s start 0 0 51; 1s crash 0 0 0",
		"spins while a unit is looked at":                  "0s host 0 0 14; 0s unit 0 635 0; 2.322s use 0 5166 0; 5.361s reload 0 0 0",
		"comes back late after a pause that was ended":     "0s host 0 0 12; 0s unit 0 0 0; 3s hold 0 251 243; 0s crash 0 0 0; 0s unit-stop 0 0 0",
		"the end of a limit is lost with the daemon":       "0s host 0 0 15; 0s unit 0 49748 0; 0s use 0 19628 0; 14s use 0 50 0; 1.215s restart 0 0 0",
		"given up while a start is asked for once more":    "0s host 0 0 13; 0s unit 0 0 14721; 3s stall 9 0 0; 2.391s crash 0 0 0; 5.587s slow-bus 32592 0 0; 40ms bus 0 0 0; 0s unit-crash 0 0 0; 4.835s crash-daemon 2 0 0",
		"how it ended is known before that is said":        "0s host 0 169 12; 0s start 0 510 0; 4s restart 0 0 0; 1s crash 0 0 0",
		"beats when it is proven anew that it has joined":  "0s host 2 201 0; 0s start 0 106 0; 0s pressure 1 0 0; 0s late-ticks 58029 22624 0; 3s hang 0 0 0; 5s slow-maps 59559 0 0; 12.428s down 0 0 0; 1.429s torn 0 0 0; 20.694s lock 0 0 0; 642ms pause 15622 0 0",
		"a start is given back while another looks only":   "0s host 0 0 14; 0s unit 0 439 10755; 3.846s slow-bus 4 0 0; 19.188s lock 0 0 0; 2s lock 0 0 0",
		"follows into a unit of one who was held":          "0s host 0 0 13; 0s unit 13 0 0; 0s unit 0 891 0; 0s unit-hang 0 0 0; 2s hold 0 0 227; 0s crash 0 0 0; 8s lock 0 0 0",
		"nobody acts at the end":                           "0s start 0 0 210; 8s remove-table 0 0 0; 1s lose-table 13 0 0; 0s lock 0 0 0; 1s read-only 0 0 0",
		"the brake lets go of one that cannot be opened":   "0s start 14 0 219; 0s start 0 0 0; 1s reload 6 0 0; 0s not-open 1 0 0; 3s crash-daemon 0 0 0; 15s reuse 0 0 0",
		"a restart for a limit, of one with two names":     "0s host 0 0 15; 0s unit 0 0 0; 1s rejoin 0 207 0; 0s use 0 3514 0; 11s pause 0 0 0",
		"a budget is another by other rules":               "0s host 0 0 14; 2.74s unit 0 33230 0; 0s slow-bus 4 0 0; 22.739s slow-bus 0 0 0; 5s reload 13 0 0; 52s reload 0 0 0",
		"a follower fails just before a crash":             "0s host 0 0 12; 0s unit 0 22 0; 3s unit-crash 0 0 0; 3s slow-bus 4 0 0; 11s reload 14 0 0; 88ms refuse 0 106 0; 9.562s crash-daemon 2 0 0; 20s crash 0 0 0",
		"begins anew, and somebody else has started it":    "0s host 0 0 13; 0s unit 0 398 15106; 2s bus 0 0 0; 0s unit-crash 0 0 0; 0s recover 0 0 0; 26s stall 0 0 0",
		"hangs while the brake holds it for a limit":       "0s host 0 185 15; 0s unit 0 764 0; 0s unit 5 0 0; 1s use 0 42588 0; 14s hang 0 0 0",
		"a silence beside the ladder for a limit is given": "0s host 0 0 15; 0s unit 0 17034 0; 3s use 0 56493 0; 7s crash-daemon 2 0 0; 0s unit-hang 0 0 0; 2s lock 0 0 0",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			list, err := parseSchedule(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := list.String(); got != text {
				t.Fatalf("read as %s", got)
			}
			if s := runSchedule(list, new(coverage), new(figures)); s.found != nil {
				t.Errorf("%s: %s\n%s", s.found.check, s.found.text, s.world)
			}
		})
	}
}
