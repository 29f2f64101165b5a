package systemd

import (
	"context"
	"fmt"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Limits are what a service may use, Unlimited where nothing is said: properties of systemd.resource-control(5).
type Limits struct {
	MemoryHigh uint64 // bytes
	CPUQuota   uint64 // CPUQuotaPerSecUSec: microseconds of processor time in a second
}

// Unlimited is "infinity" on the bus.
const Unlimited = 1<<64 - 1

// Limits returns what limits a service has. Error: it is not loaded, or the bus's.
func (u *Units) Limits(ctx context.Context, unit string) (Limits, error) {
	conn, err := u.connection(ctx)
	if err != nil {
		return Limits{}, fmt.Errorf("read limits of %s: %w", unit, err)
	}
	var l Limits
	for _, p := range []struct {
		name string
		to   *uint64
	}{{"MemoryHigh", &l.MemoryHigh}, {"CPUQuotaPerSecUSec", &l.CPUQuota}} {
		property, err := conn.GetServicePropertyContext(ctx, unit, p.name)
		if err != nil {
			u.failed(conn, err)
			return Limits{}, fmt.Errorf("read %s of %s: %w", p.name, unit, err)
		}
		value, ok := property.Value.Value().(uint64)
		if !ok {
			return Limits{}, fmt.Errorf("read %s of %s: it is %v", p.name, unit, property.Value)
		}
		*p.to = value
	}
	return l, nil
}

// SetLimits sets those limits of a service that are not 0, at run time: until the next boot at most.
func (u *Units) SetLimits(ctx context.Context, unit string, l Limits) error {
	var properties []sddbus.Property
	if l.MemoryHigh > 0 {
		properties = append(properties, sddbus.Property{Name: "MemoryHigh", Value: dbus.MakeVariant(l.MemoryHigh)})
	}
	if l.CPUQuota > 0 {
		properties = append(properties, sddbus.Property{Name: "CPUQuotaPerSecUSec", Value: dbus.MakeVariant(l.CPUQuota)})
	}
	if len(properties) == 0 {
		return nil
	}
	conn, err := u.connection(ctx)
	if err != nil {
		return fmt.Errorf("set limits of %s: %w", unit, err)
	}
	if err := conn.SetUnitPropertiesContext(ctx, unit, true, properties...); err != nil {
		u.failed(conn, err)
		return fmt.Errorf("set limits of %s: %w", unit, err)
	}
	return nil
}
