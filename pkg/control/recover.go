package control

import (
	"context"
	"strings"
)

// Recovery is a name that was started again lately, waits for that, or is given up because it does not stay up.
type Recovery struct {
	Name     string `json:"name"`
	Unit     string `json:"unit"` // empty: a command is started for it
	GivenUp  bool   `json:"given_up"`
	Starts   int    `json:"starts"`    // within the window
	Attempts int    `json:"attempts"`  // that it may have there
	NextUsec int64  `json:"next_usec"` // until the next start, or until what was given up is tried anew; 0: nothing waits
}

// recoverParameters say for whom recovery begins anew.
type recoverParameters struct {
	Name string `json:"name"` // a pattern as in a rule, of names or of units
}

func (p *recoverParameters) valid() error {
	if p.Name == "" || len(p.Name) > MaxText || strings.ContainsFunc(p.Name, unprintable) {
		return &InvalidError{"name"}
	}
	return nil
}

// Recovered says what an order to recover led to.
type Recovered struct {
	Names int `json:"names"` // whose starts are counted anew
	Down  int `json:"down"`  // of these, those that were given up, or waited: they are started now
}

// Recover begins recovery anew for all whose name or unit matches a pattern, as if they had never been started again; what
// of them is down is started now. Errors: ErrNoTarget where there is none, ErrNotAllowed.
func (c *Client) Recover(ctx context.Context, name string) (out Recovered, err error) {
	err = c.order(ctx, "Recover", recoverParameters{name}, &out)
	return out, err
}
