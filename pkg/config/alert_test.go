package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAlerts(t *testing.T) {
	c := Default()
	if c.Alerts("condemned") {
		t.Error("without a unit there is nothing to start")
	}
	c.Alert.Unit = "a@.service"
	for event, want := range map[string]bool{"condemned": true, "unkillable": true, "protected": true, "late": false, "": false} {
		if got := c.Alerts(event); got != want {
			t.Errorf("%q: %v", event, got)
		}
	}
	c.Alert.Events = []string{"brake-*"}
	if !c.Alerts("brake-on") || c.Alerts("condemned") {
		t.Error("patterns are not heeded")
	}
}

func TestAlertUnit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.toml")
	for unit, want := range map[string]string{
		"": "", "checkprocd-alert@.service": "", "a@b.service": "is no template", "a.service": "has no @ before .service", "@.service": "is no template",
		"a b@.service": "is no template", "../a@.service": "is no template", "a@.target": "is no template", strings.Repeat("a", 101) + "@.service": "is no template",
	} {
		if err := os.WriteFile(path, []byte("[alert]\nunit = \""+unit+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "alert.unit: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", unit, err)
		}
	}
}
