package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Quantity is what a limit is about.
type Quantity uint8

const (
	Memory         Quantity = iota // resident memory of the process, bytes
	GroupMemory                    // memory of its cgroup, bytes
	CPU                            // processor time, percent of one processor, on average over Limit.For
	Descriptors                    // open descriptors
	Threads                        // of the process
	Children                       // processes that it started and that have not been reaped
	Age                            // seconds since the process began
	PressureCPU                    // of its cgroup, percent of the last 10 s, as Config.Pressure
	PressureMemory                 // the same
	PressureIO                     // the same
	NumQuantities
)

var quantityNames = [NumQuantities]string{"memory", "group-memory", "cpu", "descriptors", "threads", "children", "age",
	"pressure-cpu", "pressure-memory", "pressure-io"}

func (q Quantity) String() string {
	if q < NumQuantities {
		return quantityNames[q]
	}
	return fmt.Sprintf("quantity %d", uint8(q))
}

// LimitAction is what is done when a limit is exceeded.
type LimitAction uint8

const (
	LimitReport   LimitAction = iota // say so
	LimitLadder                      // end the process
	LimitRestart                     // restart its unit
	LimitThrottle                    // give its unit less, until it is below again
)

func (a LimitAction) String() string {
	switch a {
	case LimitReport:
		return "report"
	case LimitLadder:
		return "ladder"
	case LimitRestart:
		return "restart"
	case LimitThrottle:
		return "throttle"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// Limit is how much of something a target may have, and for how long it may have more. Limits can be compared with ==.
type Limit struct {
	Of     Quantity
	Above  float64       // exceeded by more than this, in the unit of Of
	Share  bool          // of descriptors: Above and Below are percent of the soft limit of the process
	Below  float64       // over again at this or less; 0: at 90 % of Above
	For    time.Duration // for which it has to be exceeded, 1 s to 7 days
	Action LimitAction

	// With LimitThrottle, at least one of them, for the whole unit.
	MemoryHigh uint64  // bytes, as MemoryHigh= of systemd; 0: as it is
	CPUQuota   float64 // percent of one processor, as CPUQuota= of systemd; 0: as it is
}

// Calm is the value at which a limit that was exceeded is no longer so.
func (l *Limit) Calm() float64 {
	if l.Below > 0 {
		return l.Below
	}
	return l.Above * 0.9
}

// Text writes a value of the limit's quantity: 500MiB, 90%, 1d12h, 900.
func (l *Limit) Text(value float64) string {
	switch l.unit() {
	case unitBytes:
		return ByteText(value)
	case unitPercent:
		return percentText(value)
	case unitTime:
		return ageText(value)
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// unit is how the values of a limit are written.
type unit uint8

const (
	unitNumber unit = iota
	unitBytes
	unitPercent
	unitTime
)

func (l *Limit) unit() unit {
	switch l.Of {
	case Memory, GroupMemory:
		return unitBytes
	case CPU, PressureCPU, PressureMemory, PressureIO:
		return unitPercent
	case Age:
		return unitTime
	case Descriptors:
		if l.Share {
			return unitPercent
		}
	}
	return unitNumber
}

const (
	maxLimits  = 32 // of one rule; each is compared with each sample
	maxFor     = 7 * 24 * time.Hour
	defaultFor = time.Minute
	minSample  = time.Second
	maxSample  = 10 * time.Minute
	maxBytes   = 1 << 50 // exact as a float64
	maxNumber  = 1 << 31
	maxPercent = 100 * 4096 // of all processors of a large host
	maxAge     = 3650 * 24 * time.Hour

	day = 24 * time.Hour
)

const (
	bytesExpected  = `a size such as "500MiB", in B, KiB, MiB, GiB or TiB, 1B to 1024TiB`
	ageExpected    = `a time in whole seconds such as "30d" or "12h", at most 3650d`
	numberExpected = "an integer, 1 to 2147483648"
	openExpected   = `an integer, 1 to 2147483648, or a percentage of the soft limit such as "90%", at most 100%`
	shareExpected  = `a percentage such as "40%", above 0% and at most 100%`
	cpuExpected    = `a percentage of one processor such as "90%", above 0% and at most 409600%`
	limitExpected  = "[[rule.limit]]"
)

// limitSchema has above and below without a reader: what they take depends on what the limit is of (see readLimits).
var limitSchema = []field[Limit]{
	{
		key: "of", expected: enumExpected(quantities()),
		read: func(r *reader, l *Limit, path string, v *node) { readEnum(r, &l.Of, path, v, quantities()...) },
		text: func(l *Limit) string { return quote(l.Of.String()) },
	},
	{
		key: "above", expected: `a size, a percentage, a time or an integer, as the key "of" says`,
		read: func(*reader, *Limit, string, *node) {},
		text: func(l *Limit) string { return l.amountText(l.Above) },
	},
	duration("for", time.Second, maxFor, "", func(l *Limit) *time.Duration { return &l.For }),
	{
		key: "below", expected: "the same as above, and not more",
		read: func(*reader, *Limit, string, *node) {},
		text: func(l *Limit) string {
			if l.Below == 0 {
				return ""
			}
			return l.amountText(l.Below)
		},
	},
	{
		key: "action", expected: enumExpected(limitActions),
		read: func(r *reader, l *Limit, path string, v *node) { readEnum(r, &l.Action, path, v, limitActions...) },
		text: func(l *Limit) string { return quote(l.Action.String()) },
	},
	{
		key: "memory_high", expected: bytesExpected,
		read: func(r *reader, l *Limit, path string, v *node) {
			var f float64
			readBytes(r, &f, path, v)
			l.MemoryHigh = uint64(f)
		},
		text: func(l *Limit) string {
			if l.MemoryHigh == 0 {
				return ""
			}
			return quote(exactBytes(float64(l.MemoryHigh)))
		},
	},
	{
		key: "cpu_quota", expected: cpuExpected,
		read: func(r *reader, l *Limit, path string, v *node) {
			readShare(r, &l.CPUQuota, maxPercent, cpuExpected, path, v)
		},
		text: func(l *Limit) string {
			if l.CPUQuota == 0 {
				return ""
			}
			return quote(percentText(l.CPUQuota))
		},
	},
}

var limitActions = []LimitAction{LimitReport, LimitLadder, LimitRestart, LimitThrottle}

func quantities() []Quantity {
	list := make([]Quantity, NumQuantities)
	for i := range list {
		list[i] = Quantity(i)
	}
	return list
}

// amountText is a value of the limit as TOML.
func (l *Limit) amountText(value float64) string {
	switch l.unit() {
	case unitBytes:
		return quote(exactBytes(value))
	case unitNumber:
		return strconv.FormatInt(int64(value), 10)
	}
	return quote(l.Text(value))
}

// limits are the limits of a rule.
var limits = field[Rule]{
	key: "limit", expected: limitExpected,
	read: func(r *reader, rule *Rule, path string, v *node) { readLimits(r, &rule.Limits, path, v) },
	text: func(rule *Rule) string { return limitsText(rule.Limits) },
}

func limitsText(list []Limit) string {
	if len(list) == 0 {
		return ""
	}
	parts := make([]string, len(list))
	for i := range list {
		parts[i] = inline(limitSchema, &list[i])
	}
	return "[ " + strings.Join(parts, ", ") + " ]"
}

func readLimits(r *reader, to *[]Limit, path string, v *node) {
	switch {
	case v.kind != kindArray:
		r.fault(v, path, v.describe(), limitExpected)
		return
	case len(v.elems) > maxLimits:
		r.fault(v, path, fmt.Sprintf("has %d limits", len(v.elems)), fmt.Sprintf("at most %d", maxLimits))
		return
	}
	for i, e := range v.elems {
		at := fmt.Sprintf("%s[%d]", path, i)
		if e.kind != kindTable {
			r.fault(e, at, e.describe(), limitExpected)
			continue
		}
		*to = append(*to, readLimit(r, at, e))
	}
}

func readLimit(r *reader, path string, e *node) Limit {
	l := Limit{For: defaultFor}
	before := len(r.doc.faults)
	readTable(r, &l, path, e, limitSchema)
	for _, key := range []string{"of", "above", "action"} {
		if _, ok := e.children[key]; !ok {
			r.fault(e, path+"."+key, "is missing", expectedIn(limitSchema, key))
		}
	}
	if _, known := e.children["of"]; !known || len(r.doc.faults) > before {
		return l // what its values may be is not known
	}
	above, below := e.children["above"], e.children["below"]
	l.Share = l.Of == Descriptors && above.kind == kindString
	l.readAmount(r, &l.Above, path+".above", above.node)
	if below.node != nil {
		switch at := path + ".below"; {
		case l.Of == Age:
			r.fault(below.node, at, "is never reached: nobody grows younger", "none for age")
		case l.Share != (l.Of == Descriptors && below.kind == kindString):
			r.fault(below.node, at, below.describe(), "the same as above, and not more")
		default:
			l.readAmount(r, &l.Below, at, below.node)
			if l.Above > 0 && l.Below > l.Above {
				r.fault(below.node, at, clipBare(below.text)+" is more than above", "the same as above, and not more")
			}
		}
	}
	throttles := l.MemoryHigh > 0 || l.CPUQuota > 0
	switch {
	case l.Action == LimitThrottle && !throttles:
		r.fault(e, path, "says throttle, but not how", "memory_high or cpu_quota")
	case l.Action != LimitThrottle && throttles:
		r.fault(e, path, "has memory_high or cpu_quota without an action that needs them", `action = "throttle"`)
	}
	return l
}

// readAmount reads a value of the limit's quantity.
func (l *Limit) readAmount(r *reader, to *float64, path string, v *node) {
	switch l.unit() {
	case unitBytes:
		readBytes(r, to, path, v)
	case unitTime:
		readAge(r, to, path, v)
	case unitPercent:
		switch l.Of {
		case CPU:
			readShare(r, to, maxPercent, cpuExpected, path, v)
		case Descriptors:
			readShare(r, to, 100, openExpected, path, v)
		default:
			readShare(r, to, 100, shareExpected, path, v)
		}
	default:
		expected := numberExpected
		if l.Of == Descriptors {
			expected = openExpected
		}
		if n, ok := readInteger(r, path, v, expected, 1, maxNumber); ok {
			*to = float64(n)
		}
	}
}

// readShare reads a percentage above 0; 100 % is 100.
func readShare(r *reader, to *float64, most float64, expected, path string, v *node) {
	if v.kind != kindString {
		r.fault(v, path, v.describe(), expected)
		return
	}
	digits, ok := strings.CutSuffix(v.text, "%")
	f, err := strconv.ParseFloat(digits, 64)
	switch {
	case !ok || strings.Trim(digits, "0123456789.") != "" || err != nil:
		r.fault(v, path, clip(v.text)+" is no percentage", expected)
	case f <= 0 || f > most:
		r.fault(v, path, clip(v.text)+" is out of range", expected)
	default:
		*to = f
	}
}

var byteUnits = []struct {
	name string
	size float64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func readBytes(r *reader, to *float64, path string, v *node) {
	if v.kind != kindString {
		r.fault(v, path, v.describe(), bytesExpected)
		return
	}
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(v.text, u.name)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(digits, 64)
		if strings.Trim(digits, "0123456789.") != "" || err != nil {
			break
		}
		if f = math.Round(f * u.size); f < 1 || f > maxBytes {
			r.fault(v, path, clip(v.text)+" is out of range", bytesExpected)
			return
		}
		*to = f
		return
	}
	r.fault(v, path, clip(v.text)+" is no size", bytesExpected)
}

// readAge reads a duration that may have days in front.
func readAge(r *reader, to *float64, path string, v *node) {
	if v.kind != kindString {
		r.fault(v, path, v.describe(), ageExpected)
		return
	}
	days, rest, ok := strings.Cut(v.text, "d")
	if !ok {
		days, rest = "0", v.text
	}
	n, err := strconv.ParseUint(days, 10, 16)
	var d time.Duration
	if err == nil && (rest != "" || !ok) {
		d, err = time.ParseDuration(rest)
	}
	switch {
	case err != nil || d%time.Second != 0:
		r.fault(v, path, clip(v.text)+" is no time in whole seconds", ageExpected)
	case d < 0 || time.Duration(n)*day > maxAge || d > maxAge-time.Duration(n)*day || n == 0 && d == 0:
		r.fault(v, path, clip(v.text)+" is out of range", ageExpected)
	default:
		*to = (time.Duration(n)*day + d).Seconds()
	}
}

func percentText(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) + "%" }

// ageText is what readAge takes: 30d, 1d12h, 90s as 1m30s.
func ageText(seconds float64) string {
	d := time.Duration(seconds) * time.Second
	days, rest := d/day, d%day
	switch {
	case days == 0:
		return durationText(rest)
	case rest == 0:
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dd%s", days, durationText(rest))
}

// exactBytes is a size in the largest unit of which it is a whole number.
func exactBytes(n float64) string {
	for _, u := range byteUnits {
		if whole := n / u.size; n >= u.size && whole == math.Trunc(whole) {
			return strconv.FormatFloat(whole, 'f', -1, 64) + u.name
		}
	}
	return "0B"
}

// ByteText is a size for a reader: 612.3MiB.
func ByteText(n float64) string {
	for _, u := range byteUnits {
		if n >= u.size && u.size > 1 {
			return strings.TrimSuffix(strconv.FormatFloat(n/u.size, 'f', 1, 64), ".0") + u.name
		}
	}
	return strconv.FormatFloat(n, 'f', -1, 64) + "B"
}
