// Package plots draws the results of benchmarks. It draws what package measure computes from raw samples and nothing else.
package plots

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/nearpath/nearpath/bench/measure"
)

// What a picture's sizes are.
const (
	width  = 18 * vg.Centimeter
	bar    = 0.45 * vg.Centimeter
	row    = 0.75 * vg.Centimeter
	around = 2.2 * vg.Centimeter // title and axis of a panel
	margin = 0.3 * vg.Centimeter
)

// colours tell roles apart, also in grey.
var colours = map[measure.Role]color.Color{
	measure.Subject: color.RGBA{R: 0x10, G: 0x5f, B: 0xb5, A: 0xff},
	measure.Peer:    color.RGBA{R: 0x9a, G: 0xa5, B: 0xb1, A: 0xff},
	measure.Floor:   color.RGBA{R: 0xd9, G: 0xde, B: 0xe4, A: 0xff},
}

// Write draws a result as dir/<benchmark>.svg, making dir if absent, and returns the file's path: one panel for each metric
// of each series that compares at least two cases, a bar for each case, as long as its median, with a line from the median
// to the p95.
func Write(r measure.Result, dir string) (string, error) {
	panels, err := panelsOf(r)
	if err != nil {
		return "", fmt.Errorf("draw %s: %w", r.Benchmark, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, r.Benchmark+".svg")
	return path, os.WriteFile(path, picture(panels), 0o644)
}

// A panel is the bars of one metric of one series.
type panel struct {
	plot   *plot.Plot
	height vg.Length
}

func panelsOf(r measure.Result) (all []panel, err error) {
	for _, s := range r.Series {
		for _, m := range s.Metrics {
			bars := barsOf(s, m)
			if len(bars) < 2 {
				continue
			}
			p, err := draws(fmt.Sprintf("%s: %s", s.Name, titleOf(m)), bars)
			if err != nil {
				return nil, err
			}
			all = append(all, panel{p, around + vg.Length(len(bars))*row})
		}
	}
	return all, nil
}

func titleOf(m measure.Metric) string {
	title, better := m.What, "less is better"
	if m.Unit != "" {
		title += " (" + m.Unit + ")"
	}
	if m.HigherIsBetter {
		better = "more is better"
	}
	return title + ", " + better
}

// One bar of a panel.
type caseBar struct {
	name string
	role measure.Role
	sum  measure.Summary
}

// barsOf are the cases that have samples of a metric, the first one last: axes begin at the bottom.
func barsOf(s measure.SeriesResult, m measure.Metric) (bars []caseBar) {
	for _, c := range s.Cases {
		if sum := c.Summary(m); sum.N > 0 {
			bars = append([]caseBar{{c.Name, c.Role, sum}}, bars...)
		}
	}
	return bars
}

func draws(title string, bars []caseBar) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, 0.15*vg.Centimeter
	p.X.Min = 0
	names, longest := make([]string, len(bars)), 0.0
	for i, b := range bars {
		names[i], longest = b.name, max(longest, b.sum.P50, b.sum.P95)
		if err := addBar(p, i, b); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", title, b.name, err)
		}
	}
	if longest == 0 {
		longest = 1 // an axis from 0 to 0 has no length
	}
	p.NominalY(names...)
	p.X.Max = 1.15 * longest // room for the figures
	return p, nil
}

// addBar draws a bar as the i-th from the bottom.
func addBar(p *plot.Plot, i int, b caseBar) error {
	chart, err := plotter.NewBarChart(plotter.Values{b.sum.P50}, bar)
	if err != nil {
		return err
	}
	chart.Horizontal, chart.XMin, chart.Color, chart.LineStyle.Width = true, float64(i), colours[b.role], 0
	at := plotter.XY{X: b.sum.P50, Y: float64(i)}
	line, err := plotter.NewLine(plotter.XYs{at, {X: b.sum.P95, Y: at.Y}})
	if err != nil {
		return err
	}
	figure, err := plotter.NewLabels(plotter.XYLabels{
		XYs: plotter.XYs{{X: max(b.sum.P50, b.sum.P95), Y: at.Y}}, Labels: []string{measure.Figure(b.sum.P50)},
	})
	if err != nil {
		return err
	}
	figure.Offset = vg.Point{X: 0.12 * vg.Centimeter}
	figure.TextStyle[0].YAlign = text.YCenter
	p.Add(chart, line, figure)
	return nil
}

// picture puts panels below each other.
func picture(panels []panel) []byte {
	height := vg.Length(0)
	for _, p := range panels {
		height += p.height
	}
	canvas := vgsvg.New(width, max(height, 1))
	whole := draw.New(canvas)
	for top := height; len(panels) > 0; panels = panels[1:] {
		area := draw.Crop(whole, margin, -margin, top-panels[0].height+margin, top-height)
		panels[0].plot.Draw(area)
		top -= panels[0].height
	}
	var svg bytes.Buffer
	_, _ = canvas.WriteTo(&svg) // a buffer takes everything
	return svg.Bytes()
}
