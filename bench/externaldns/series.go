package externaldns

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// idle counts calls while nothing happens.
func (b *bed) idle() measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("idle, %d records", records), Rounds: 2, What: "a minute in which nothing happens",
		Metrics: []measure.Metric{{Name: "calls", What: "calls of the API in a minute", Unit: "calls"}},
	}
	if b.env.Quick {
		s.Rounds = 1
	}
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) {
		mark := c.mark()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Minute):
		}
		return measure.Samples{"calls": {float64(c.since(mark).all)}}, c.alive()
	})
	return s
}

// changes makes Services at once and waits until their names resolve; untimed it removes them again.
func (b *bed) changes(n, rounds int) measure.Series {
	s := measure.Series{
		Name: fmt.Sprintf("%d at once, %d records", n, records), Rounds: rounds,
		What: fmt.Sprintf("%d Services that are made at once: until each name resolves in the VPC, and the calls until nothing is left to do; the floor adds the records alone, as fast as the quota lets it", n),
		Metrics: []measure.Metric{
			{Name: "resolve", What: "until a name resolves", Unit: "ms"},
			{Name: "calls", What: "calls a change", Unit: "calls"},
			{Name: "throttled", What: "throttled calls", Unit: "calls"},
		},
	}
	s.Cases = b.cases(func(ctx context.Context, c *contender) (measure.Samples, error) { return c.change(ctx, n) })
	s.Cases = append(s.Cases, measure.Case{Name: "calls alone", Role: measure.Floor, Round: func(ctx context.Context) (measure.Samples, error) { return b.floor.addAlone(ctx, n) }})
	return s
}

func (c *contender) change(ctx context.Context, n int) (measure.Samples, error) {
	wanted, objects := map[string]string{}, []runtime.Object(nil)
	for range n {
		name, address := c.service()
		wanted[name] = address
		objects = append(objects, serviceOf(name, address))
	}
	mark, began := c.mark(), time.Now()
	if err := c.api.Put(objects...); err != nil {
		return nil, err
	}
	took, err := c.awaitNames(ctx, mark, began, wanted)
	if err != nil {
		return nil, err
	}
	if err := c.quiet(ctx, mark, n, c.alive); err != nil {
		return nil, err
	}
	counted := c.since(mark)
	samples := measure.Samples{"resolve": took, "calls": {float64(counted.all) / float64(n)}, "throttled": {float64(counted.throttled)}}

	mark = c.mark()
	for name := range wanted {
		if err := c.api.Delete("Service", namespace, name); err != nil {
			return nil, err
		}
	}
	return samples, c.awaitDeletes(ctx, mark, n)
}

// awaitNames returns after how many milliseconds each name resolved. A name is asked for once its record was added.
func (c *contender) awaitNames(ctx context.Context, mark int, began time.Time, wanted map[string]string) (took []float64, err error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for asked := map[string]bool{}; len(took) < len(wanted); {
		mark = c.added(mark, asked)
		for name := range asked {
			if c.resolves(ctx, host(name), wanted[name]) {
				took = append(took, float64(time.Since(began).Microseconds())/1000)
				delete(asked, name)
			}
		}
		if err := c.alive(); err != nil {
			return nil, err
		}
		if time.Since(began) > 15*time.Minute {
			return nil, fmt.Errorf("%d of %d names resolve after 15 minutes\n%s", len(took), len(wanted), c.tail())
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
	return took, nil
}

// added adds the names whose addresses were added since a mark, and returns the mark after them.
func (c *contender) added(mark int, names map[string]bool) int {
	for _, call := range c.cloud.CallLog(mark) {
		mark = call.Seq
		if call.Action == "AddZoneRecord" && call.Code == "" && call.Params["Type"] == "A" {
			names[call.Params["Rr"]] = true
		}
	}
	return mark
}

// awaitDeletes waits until a zone is as before.
func (c *contender) awaitDeletes(ctx context.Context, mark, n int) error {
	for {
		if err := c.quiet(ctx, mark, n*c.perName(), c.alive); err != nil {
			return err
		}
		if got := c.cloud.PrivateZone().Zones()[0].Records; got == records {
			return nil
		}
		mark = c.mark()
		n = 0 // what is left comes with the next loop
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// addAlone adds records as fast as the quota lets one.
func (s *site) addAlone(ctx context.Context, n int) (measure.Samples, error) {
	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: region, PVTZEndpoint: s.cloudL.Addr().String(),
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	if err != nil {
		return nil, err
	}
	mark, began := s.mark(), time.Now()
	took, errs := make([]float64, n), make(chan error, n)
	for i := range n {
		go func() {
			_, err := client.AddRecord(ctx, aliyun.AddRecord{ZoneID: zoneID, RR: fmt.Sprintf("web-%d", i), Type: "A", Value: "10.0.0.1", TTL: 60})
			took[i] = float64(time.Since(began).Microseconds()) / 1000
			errs <- err
		}()
	}
	for range n {
		if failed := <-errs; failed != nil {
			err = failed
		}
	}
	if err != nil {
		return nil, err
	}
	counted := s.since(mark)
	for _, r := range s.cloud.PrivateZone().Records(zoneID) {
		if err := s.cloud.PrivateZone().Remove(r.ID); err != nil {
			return nil, err
		}
	}
	return measure.Samples{"resolve": took, "calls": {float64(counted.all) / float64(n)}, "throttled": {float64(counted.throttled)}}, nil
}
