package externaldns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/test/netlab"
)

// A program is a syncer to start at a site.
type program interface {
	name() string
	role() measure.Role
	// perName is how many records a published name is.
	perName() int
	// own adds what the program would write for a Service.
	own(s *site, service, address string) error
	// command is how to run it at the site, with those sources.
	command(s *site, env measure.Env, sources []string) (*exec.Cmd, error)
}

// A contender is a program at a site of its own.
type contender struct {
	program
	*site
	lab     *netlab.Lab
	env     measure.Env
	process *netlab.Process // nil: not started
	next    int             // number of the next Service
}

// newContender makes a site for a program, with files in a directory of that name.
func (b *bed) newContender(p program, dir string) (*contender, error) {
	s, err := newSite(b.lab.Dir(), dir)
	if err != nil {
		return nil, err
	}
	return &contender{program: p, site: s, lab: b.lab, env: b.env}, os.MkdirAll(s.dir, 0o700)
}

// fill makes Services and the records they have, so many that the zone is full.
func (c *contender) fill() error {
	for range records / c.perName() {
		name, address := c.service()
		if err := c.api.Put(serviceOf(name, address)); err != nil {
			return err
		}
		if err := c.own(c.site, name, address); err != nil {
			return err
		}
	}
	return nil
}

// service names another Service.
func (c *contender) service() (name, address string) {
	c.next++
	return fmt.Sprintf("web-%d", c.next), fmt.Sprintf("10.%d.%d.%d", 64+c.next>>16, c.next>>8&255, c.next&255)
}

// start returns when the program has found that all is as it shall be.
func (c *contender) start(ctx context.Context) error {
	if err := c.run([]string{"service"}); err != nil {
		return err
	}
	mark := c.mark()
	if err := c.quiet(ctx, mark, records/100, c.alive); err != nil {
		return err
	}
	if n := c.since(mark); n.writes() > 0 {
		return fmt.Errorf("it wrote to a zone that was as it shall be: %+v\n%s", n, c.tail())
	}
	return nil
}

func (c *contender) run(sources []string) error {
	cmd, err := c.command(c.site, c.env, sources)
	if err != nil {
		return err
	}
	log, err := os.Create(c.logFile())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	c.process, err = c.lab.Start(cmd)
	return err
}

var errEnded = errors.New("it has ended")

// alive says when the program has ended, and what it said last.
func (c *contender) alive() error {
	select {
	case <-c.process.Done():
		return fmt.Errorf("%w: %w\n%s", errEnded, c.process.Err(), c.tail())
	default:
		return nil
	}
}

func (c *contender) logFile() string { return filepath.Join(c.dir, "log") }

// tail is the end of the log.
func (c *contender) tail() string {
	text, err := os.ReadFile(c.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

func (c *contender) close() error {
	if c.process != nil {
		c.process.Kill()
	}
	return c.site.close()
}
