package process

import "strings"

// managerRoot is the part of pid 1's cgroup that comes before what its systemd made: in a container without a cgroup
// namespace it is not "". systemd puts itself into init.scope there (before 226: into system.slice or system).
func managerRoot(path string) string {
	for _, own := range []string{"/init.scope", "/system.slice", "/system"} {
		if root, ok := strings.CutSuffix(path, own); ok {
			return root
		}
	}
	return ""
}

// unit finds the units of a cgroup path the way that systemd does (cg_path_get_unit in systemd's
// src/basic/cgroup-util.c): below slices only, the first component that names a unit. What lies deeper is the unit's
// own business, except below user@UID.service, where the user's manager has its units.
func (s *system) unit(path string) (unit, userUnit string) {
	if s.root != "" {
		rest, ok := strings.CutPrefix(path, s.root)
		if !ok || rest != "" && rest[0] != '/' {
			return "", ""
		}
		path = rest
	}
	path = strings.TrimSuffix(path, " (deleted)")
	unit, rest := firstUnit(path)
	if strings.HasPrefix(unit, "user@") && strings.HasSuffix(unit, ".service") {
		userUnit, _ = firstUnit(rest)
	}
	return unit, userUnit
}

// firstUnit skips slices and takes the next component, if it is a unit that can hold processes.
func firstUnit(path string) (unit, rest string) {
	for path != "" {
		var name string
		name, path, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
		// A name that would look like a file of the cgroup file system is escaped with one "_".
		name = strings.TrimPrefix(name, "_")
		switch kind := unitKind(name); kind {
		case "slice":
		case "service", "scope", "socket", "mount", "swap":
			return name, path
		default:
			return "", ""
		}
	}
	return "", ""
}

// unitKind is the suffix of a valid unit name, "" for anything else (unit_name_is_valid: at most 255 bytes of letters,
// digits and :-_.\@, something before the last dot).
func unitKind(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if dot < 1 || name[0] == '@' || len(name) > 255 {
		return ""
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte(`:-_.\@`, c) >= 0:
		default:
			return ""
		}
	}
	return name[dot+1:]
}
