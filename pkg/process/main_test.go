package process

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	HelperMain()
	os.Exit(m.Run())
}
