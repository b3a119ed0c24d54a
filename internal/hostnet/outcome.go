package hostnet

import (
	"errors"
	"fmt"
	"slices"
)

// An outcome is what one comparison came to.
type outcome struct {
	absent     []ENI
	companions map[string]Companion // of wanted ENIs, by MAC address
	failed     []failure
}

// A failure is a Step that failed, or without an Op what could not be read for a Part.
type failure struct {
	Step
	err error
}

func (o *outcome) add(s Step, err error) { o.failed = append(o.failed, failure{s, err}) }

// ofENI is what keeps the ENI from being used: its own failures and those of what all ENIs need.
func (o *outcome) ofENI(mac string) error {
	return o.which(func(f failure) bool { return f.Part == PartNode || f.Part == PartENI && f.MAC == mac })
}

// ofParent is what keeps the ENI from being an ipvlan parent.
func (o *outcome) ofParent(mac string) error {
	return o.which(func(f failure) bool {
		return f.Part == PartNode || (f.Part == PartENI || f.Part == PartIPVlan) && f.MAC == mac
	})
}

// ofTable is what left routes in the table of an ENI that is not wanted any more.
func (o *outcome) ofTable(table int) error {
	return o.which(func(f failure) bool {
		stale, ok := f.Op.(DeleteRoute)
		return ok && stale.Route.Table == table || f.Op == nil && f.Part == PartNode
	})
}

// of joins the failures of the parts.
func (o *outcome) of(parts ...Part) error {
	return o.which(func(f failure) bool { return slices.Contains(parts, f.Part) })
}

func (o *outcome) all() error { return o.which(func(failure) bool { return true }) }

func (o *outcome) which(match func(failure) bool) error {
	var errs []error
	for _, f := range o.failed {
		if match(f) {
			errs = append(errs, f.err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("bring host network into state: %w", err)
	}
	return nil
}

// ofStep is why the step failed.
func (o *outcome) ofStep(s Step) error {
	i := slices.IndexFunc(o.failed, func(f failure) bool { return f.Op != nil && f.MAC == s.MAC && f.String() == s.String() })
	if i < 0 {
		return nil
	}
	return o.failed[i].err
}

// added says whether one of the steps has made a link that was not there when the kernel was read.
func (o *outcome) added(steps []Step) bool {
	return slices.ContainsFunc(steps, func(s Step) bool {
		_, adds := s.Op.(AddCompanion)
		return adds && o.ofStep(s) == nil
	})
}
