package daemon

import (
	"github.com/rs/zerolog"

	"github.com/checkprocd/checkprocd/pkg/guard"
)

// Events of the daemon itself; the guard's stand in pkg/guard.
const (
	evStarted        guard.EventName = "started"
	evStopping       guard.EventName = "stopping"
	evDegraded       guard.EventName = "degraded"
	evReloaded       guard.EventName = "reloaded"
	evConfigRejected guard.EventName = "config-rejected"

	// Of the configuration of a guarded program.
	evConfigChanged     guard.EventName = "config-changed"
	evConfigApplied     guard.EventName = "config-applied"
	evConfigCheckFailed guard.EventName = "config-check-failed"
	evConfigBlamed      guard.EventName = "config-blamed"
	evConfigDelayed     guard.EventName = "config-delayed"
	evAlertTest         guard.EventName = "alert-test"
	evDenied            guard.EventName = "denied"
)

// messageIDs are the stable MESSAGE_IDs of the events, made once at random;
// deploy/checkprocd.catalog has a text for each.
var messageIDs = map[guard.EventName]string{
	evStarted:             "572ee18a90b5aa2a3d8e36d9d29d1af8",
	evStopping:            "b56f8c60bee5b72170b6e7075fe54304",
	evDegraded:            "208686a2d500a0a43b150a1203f681ee",
	guard.EvRegistered:    "828d78ce4e31c3010795da320960155a",
	guard.EvUnregistered:  "7acf831765639b3f8c85f36356062ab5",
	guard.EvExited:        "333d84903870882d21be631371289732",
	guard.EvCleared:       "35e39871e673dd110b5b9823c8da96e6",
	guard.EvLate:          "eba0f187872150a495116192352d56e5",
	guard.EvCondemned:     "64ee35c8e63f40e8357fc1ae29f85ba2",
	guard.EvWouldCondemn:  "90b9085f171c08ac5901fec3f9f04b34",
	guard.EvProtected:     "917137601d5e857006bb76f7822b9a13",
	guard.EvWaiting:       "63cb2edad242c3ec60e042af82de5793",
	guard.EvWouldClear:    "240ed0a21f64929993eb55f23aeed8a1",
	guard.EvSignalled:     "aead1785821e2639ed108de8cd15c05c",
	guard.EvRecovered:     "b9377f7509b0ed895ce00f4f79e23edc",
	guard.EvKilled:        "043bfc05b454d2e6f20aadbafca7b3fb",
	guard.EvUnkillable:    "4475d091e69831cc23c9999384bf8a1f",
	guard.EvRefused:       "1a5e2d38d87c4b00725402895e8d66af",
	guard.EvForeign:       "8cc28313b0ebdc817d50f8427a3c1853",
	guard.EvUnguarded:     "5bb8540059dd322c97e1d0bfebf942a5",
	guard.EvChanged:       "24bc054190cd5a8a62d31fb2bcdc3ee0",
	guard.EvIgnored:       "a7754afd313da68bf1455789c45f8eda",
	guard.EvHeld:          "282d9a00cb4a3ce94fcc6439f9fd6636",
	guard.EvReleased:      "ee4f6460bafdc7c512d5b8e293ea52d8",
	guard.EvResumed:       "2cd0828748731dc456394ea2cc65af25",
	guard.EvPaused:        "1fec86a330173fce2d2f5215c9843941",
	guard.EvBrakeOn:       "1cdcf95e1b8c6b58197eac18adf7bd86",
	guard.EvBrakeOff:      "f7cf8ff19628a909a03167535fd6c67c",
	guard.EvGap:           "81bfb2f6dcb807094840dbfa181de5ea",
	guard.EvTableAttached: "143e34e67e900b106aca83b32831ed4d",
	guard.EvTableLost:     "d0910f0cd10708ceeb436fd3af68aa52",
	guard.EvTableFull:     "8bde3f0b3ac451e7f69bb00009fc5758",
	guard.EvSemaphore:     "657b1ca3ef1796b7c47d74132c4ffaae",
	guard.EvOldGuard:      "7d1560dd65399637b9e71d59ca0104ed",
	guard.EvCollateral:    "f072c86ba45de536cc40a0c6cf0744ee",
	guard.EvUnreaped:      "ef284faba2cf64c7b36693e7f31f2b3c",
	guard.EvRestored:      "49c151506fcf5743645a789c959d5399",
	guard.EvRestoreFailed: "efaf3a9afb0eed981d19ea6ac3e2212e",
	guard.EvLeftDown:      "3ce0a0a0fe452fd6972bc4d01e83dae2",
	guard.EvGaveUp:        "98742bbe817234071eea426d1ca3d6f2",
	guard.EvRetrying:      "d1db01668c399241e4986b3e3f937f70",
	guard.EvActing:        "1cfd01589a8a35f7c9929af4f0f69e57",
	guard.EvObserving:     "26254f0d6b3e5675d6d46b8dfd98c90c",

	guard.EvLimit:          "3ad9070971fcdd647efbe3e46f21214d",
	guard.EvLimitOver:      "5a49916a6273f4ddd40b07b6bc4f742b",
	guard.EvLimitRestarted: "48b711beb3274d96d0efd7a156504a5c",
	guard.EvLimitFailed:    "f281cf8634eb1eda1dead865b2eccb25",
	guard.EvThrottled:      "9a20fcdd8902648aa85c1b2f8e186708",
	guard.EvUnthrottled:    "7f2d5c2a833f3dcf24d72753d0834390",

	evReloaded:          "7564c1808f43202a48cd000bcdf2622b",
	evConfigRejected:    "c084dbe0efe8cce1d66f7ee9eaffceff",
	evConfigChanged:     "ff66f2f93d7499fe1b0370edcf0a8619",
	evConfigApplied:     "69caa11271b06730e80f48fc0f10f570",
	evConfigCheckFailed: "1dd1ab12dec1ea863b9e4262aee9a0e8",
	evConfigBlamed:      "f0197c5951aeb6d3af443171a261f0c6",
	evConfigDelayed:     "563358afddafcf4cbe3f8073061e1869",
	evAlertTest:         "589a0d5c5e3b74140b9355a4395f3e3f",
	evDenied:            "3ef7788ab9d004268f1ae127a10afe8e",
}

// MessageIDs returns the MESSAGE_ID of each event by its name.
func MessageIDs() map[string]string {
	ids := make(map[string]string, len(messageIDs))
	for name, id := range messageIDs {
		ids[string(name)] = id
	}
	return ids
}

var levels = map[guard.Level]zerolog.Level{
	guard.LevelInfo:    zerolog.InfoLevel,
	guard.LevelNotice:  zerolog.InfoLevel,
	guard.LevelWarning: zerolog.WarnLevel,
	guard.LevelError:   zerolog.ErrorLevel,
}

// aboutTable are the guard's events that are about a table without naming a
// slot.
var aboutTable = map[guard.EventName]bool{
	guard.EvTableAttached: true, guard.EvTableLost: true, guard.EvTableFull: true, guard.EvOldGuard: true,
}

// hasTable says whether an event is about a table: 0 is a namespace's first
// segment.
func hasTable(e *guard.Event) bool {
	return e.Table > 0 || e.Table == 0 && (e.Slot >= 0 || aboutTable[e.Name])
}

// report writes one event: a journal record, a console line or a JSON line; and
// keeps it for those who follow the events.
func (d *Daemon) report(e *guard.Event) {
	d.keep(e)
	d.alert(e)
	z := d.log.WithLevel(levels[e.Level])
	if e.Level == guard.LevelNotice {
		z.Int("priority", 5) // zerolog has no level between info and warning
	}
	z.Str("event", string(e.Name)).Str("message_id", messageIDs[e.Name])
	if e.PID != 0 {
		z.Int32("pid", e.PID)
	}
	if e.Process != "" {
		z.Str("name", e.Process)
	}
	if hasTable(e) {
		z.Int32("table", int32(e.Table))
	}
	if e.Slot >= 0 {
		z.Int32("slot", e.Slot)
	}
	if e.Timeout > 0 {
		z.Int64("timeout_usec", e.Timeout.Microseconds())
	}
	if e.Silence > 0 {
		z.Int64("silence_usec", e.Silence.Microseconds())
	}
	for _, f := range [...]struct{ key, value string }{{"verdict", e.Verdict}, {"signal", e.Signal}, {"unit", e.Unit}, {"object_unit", e.Unit}, {"reason", e.Reason}, {"episode", e.Episode}} {
		if f.value != "" {
			z.Str(f.key, f.value)
		}
	}
	if e.Step > 0 {
		z.Int("step", e.Step)
	}
	if h := d.held[e.Target]; h != nil {
		if provenBy[e.Name] {
			addEvidence(z, e, h.proof)
		}
		if provenBy[e.Name] || e.Name == guard.EvRecovered || e.Name == guard.EvReleased {
			h.proof = nil // the next verdict has its own
		}
	}
	// journald resolves OBJECT_PID when it reads the record: only while the
	// pidfd says that the number is still this process's.
	if h := d.held[e.Target]; h != nil && !h.gone && !h.proc.Exited() {
		z.Int32("object_pid", e.PID)
	}
	z.Msg(e.Message)
}

// say reports an event of the daemon itself.
func (d *Daemon) say(name guard.EventName, level guard.Level, reason, message string) {
	d.report(&guard.Event{Name: name, Level: level, Table: -1, Slot: -1, Reason: reason, Message: message})
}
