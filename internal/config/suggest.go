package config

import "keylime/internal/spelling"

// suggest is ", did you mean X?" for the name closest to an unknown one, or nothing.
func suggest(name string, known []string) string {
	best, bestDistance := "", len(name)/3+2
	for _, k := range known {
		if d := spelling.Distance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}
