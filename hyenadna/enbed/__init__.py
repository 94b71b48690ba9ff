"""ENBED: pretraining by span corruption, and studies on noise, annotation and mutations."""
