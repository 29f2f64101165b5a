package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// envClient makes this binary a client of the socket that it names: it prints what it may see and do, as JSON.
const envClient = "CONTROL_TEST_CLIENT"

type clientView struct {
	Targets                           []Target
	Partial                           bool
	List, Check, Reload, Hold, Follow string // errors
}

func TestMain(m *testing.M) {
	if path := os.Getenv(envClient); path != "" {
		runClient(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func runClient(path string) {
	c, err := Dial(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	text := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return ""
	}
	var v clientView
	v.Targets, v.Partial, err = c.List(ctx)
	v.List = text(err)
	_, err = c.Check(ctx)
	v.Check = text(err)
	_, err = c.Reload(ctx)
	v.Reload = text(err)
	_, err = c.Hold(ctx, HoldRequest{All: true, ForUsec: MinHold.Microseconds()})
	v.Hold = text(err)
	err = c.Follow(ctx, "", func(Followed) error { return io.EOF })
	v.Follow = text(err)
	_ = json.NewEncoder(os.Stdout).Encode(v)
}
