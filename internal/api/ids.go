package api

import "strconv"

const maxAgentID = 80 // the width that every peer stores

// ValidAgentID reports whether an agent id is one to eighty of the characters A-Z a-z 0-9 _ . - and not "." or "..".
// Ids stand in paths, file names and logs (CVE-2022-23949).
func ValidAgentID(id string) bool { return validName(id, maxAgentID) }

const maxPolicyName = 255

// ValidPolicyName reports whether a policy name is one to 255 of the characters of agent ids.
func ValidPolicyName(name string) bool { return validName(name, maxPolicyName) }

func validName(s string, max int) bool {
	if s == "" || len(s) > max || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// ParsePort reads a port as peers send it, a JSON number or a numeric string; false unless it is in 1..65535.
func ParsePort(raw []byte) (int, bool) {
	s := string(raw)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	port, err := strconv.Atoi(s)
	return port, err == nil && port <= 65535
}
