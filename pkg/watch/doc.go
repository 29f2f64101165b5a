// Package watch notices that files have another content than before, and that it has settled.
//
// A [Debouncer] is the pure part: it is told when something moved and what the files held at a look, and says when to
// look next and when a change is one. A [Watcher] is the thin edge around it: inotify on the directories, looks at the
// files. What counts is the content, not who wrote it or how: in place, by a rename over it, by a symbolic link on the
// way that is swapped. Inotify only makes it quick: a look each [Patrol] finds what it cannot tell (files of a network
// file system, a directory far above that was moved).
package watch
