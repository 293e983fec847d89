<part lua>
